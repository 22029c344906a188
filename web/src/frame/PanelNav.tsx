// The panels in their five places.
import { useEffect, useRef } from "preact/hooks";
import { about } from "../app";
import { panel } from "../state";

export function PanelNav() {
  const nav = useRef<HTMLElement>(null);
  const now = panel.value;
  useEffect(() => {
    const [row, chosen] = [nav.current, nav.current?.querySelector<HTMLElement>("[aria-current]")];
    if (row && chosen) row.scrollLeft = chosen.offsetLeft - row.offsetLeft - (row.clientWidth - chosen.offsetWidth) / 2; // on a narrow screen
  }, [now]);
  return (
    <nav class="panels" aria-label="Panels" ref={nav}>
      {[...new Set(about.value.map(({ place }) => place))].map((place) => {
        const views = about.value.filter((one) => one.place === place);
        return (
          <div class="place" key={place} role="group" aria-label={place}>
            <span class="place-name" aria-hidden="true">{place}</span>
            <div class="place-panels">
              {views.map((view) => (
                <button key={view.id} aria-current={panel.value === view.id ? "page" : undefined} onClick={() => (panel.value = view.id)} title={view.question}>
                  {view.title}
                </button>
              ))}
            </div>
          </div>
        );
      })}
    </nav>
  );
}
