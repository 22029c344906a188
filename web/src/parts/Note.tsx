// A sentence beside a part of a panel, which comes with the panel's texts.
import { about } from "../app";

export const noted = (name: string): string => about.value.find(({ notes }) => notes[name])?.notes[name] ?? "";

export function Note({ of }: { of: string }) {
  return <p class="small">{noted(of)}</p>;
}
