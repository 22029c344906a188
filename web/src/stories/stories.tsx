// A page with every part and every panel on fixed data; with ?frame the frame around them, which takes &beside, &failed
// and &theme=dark as well.
import { render } from "preact";
import about from "prose:about";
import { about as said, isLive, models, notice, failure } from "../app";
import { setPass, setSource } from "../data/store";
import type { PanelData } from "../data/types";
import { Frame } from "../frame/Frame";
import { PANELS } from "../panels";
import { keepAddress, locked, model, open, beside, prompt } from "../state";
import { chooseTheme } from "../theme";
import { SIDES, TEXT } from "./made";
import { STORIES } from "./panels";
import { PARTS } from "./parts";
import { encoded } from "./encoded";
import "../theme.css";
import "../frame/frame.css";
import "./stories.css";

const words = new URLSearchParams(location.search);
const wanted = words.get("theme");
if (wanted === "dark" || wanted === "light") chooseTheme(wanted);

const nowhere = async (): Promise<never> => {
  throw new Error("stories have no server");
};
setSource(
  {
    live: true, models: nowhere, run: nowhere, ask: nowhere, stream: nowhere,
    async panel(_pass, side, id) {
      const found = STORIES[id];
      if (!found) throw new Error(`${id} has no story: add panels/${id}/story.ts to stories/panels.ts`);
      return encoded(words.has("failed") ? broken(found) : found, side);
    },
  },
  () => {},
);
setPass("story", words.has("beside") ? SIDES : { A: SIDES.A });

function broken(panel: PanelData): PanelData {
  return { ...panel, checks: panel.checks.map((one, i) => (i ? one : { ...one, residual: 0.31, ok: false })) };
}

function Stories() {
  return (
    <main class="stories">
      <h1>Stories</h1>
      {Object.entries(PARTS).map(([name, Part]) => <section key={name}><h2>{name}</h2><Part /></section>)}
      {PANELS.filter(({ id }) => STORIES[id]).map(({ id, View }) => {
        const data = STORIES[id] as PanelData;
        return (
          <section key={id} class="panel-body">
            <h2>{id}</h2>
            <View data={data} panel={{ A: data, data, signed: false, loading: false }} signed={false} options={data.options} set={() => {}} />
          </section>
        );
      })}
    </main>
  );
}

const root = document.getElementById("stories");
if (root) {
  isLive.value = true;
  said.value = about;
  model.value = SIDES.A.model;
  if (words.has("beside")) beside.value = SIDES.B?.model ?? "";
  models.value = [SIDES.A, ...(SIDES.B ? [SIDES.B] : [])].map(({ model: name, card, map }) => ({ name, card, map }));
  prompt.value = TEXT.slice(1).join("");
  if (words.has("failed")) failure.value = "the prompt has 300 tokens, more than the 256 of the model's context; shorten it";
  if (words.has("failed")) notice.value = "The server no longer had this pass; the prompt was run again.";
  open(location.hash);
  if (words.has("frame")) keepAddress(() => {});
  else locked.value = { ...locked.value };
  render(words.has("frame") ? <Frame /> : <Stories />, root);
}
