// Light or dark: as the system has it, or as the reader chose.
import { computed, effect, signal } from "./signals";

export type Theme = "system" | "light" | "dark";

const asked = typeof matchMedia === "function" ? matchMedia("(prefers-color-scheme: dark)") : null;
const systemDark = signal(asked?.matches ?? false);
asked?.addEventListener("change", () => (systemDark.value = asked.matches));

export const theme = signal<Theme>(kept());
export const dark = computed(() => (theme.value === "system" ? systemDark.value : theme.value === "dark"));

effect(() => {
  if (typeof document === "undefined") return;
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
});

export function chooseTheme(chosen: Theme): void {
  theme.value = chosen;
  try {
    localStorage.setItem("fathom-theme", chosen);
  } catch {
    // a page from disk or in a sandbox may keep nothing
  }
}

function kept(): Theme {
  try {
    const found = localStorage.getItem("fathom-theme");
    return found === "light" || found === "dark" ? found : "system";
  } catch {
    return "system";
  }
}
