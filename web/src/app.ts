// Starting, running a prompt, and what goes wrong.
import { batch, effect, signal } from "./signals";
import { embedded } from "./data/embedded";
import { live } from "./data/live";
import { lineOf, pass, setPass, setSource, sides, theSource } from "./data/store";
import type { About, DocumentData, ModelEntry, Sides, Stop } from "./data/types";
import { beside, fit, keepAddress, model, open, panel, prompt, seed, show } from "./state";

/** What is said of each panel that there is, in the order of the navigation, and the stops of the tour. */
export const about = signal<readonly About[]>([]);
export const tour = signal<readonly Stop[]>([]);
export const models = signal<ModelEntry[]>([]);
export const running = signal(false);
/** One line about what went wrong; what went well but needs saying. */
export const failure = signal("");
export const notice = signal("");
/** Whether a server is behind the page. */
export const isLive = signal(false);

/** What is written in the fields, until Run makes it what is shown. */
export const draft = signal("");
export const draftSeed = signal(0);
effect(() => void ([draft.value, draftSeed.value] = [prompt.value, seed.value]));

/** What was run last, to see whether the address asks for something else. */
let shown = "";
const wanted = (): string => JSON.stringify([model.value, beside.value, prompt.value, seed.value]);

export async function run(): Promise<void> {
  if (running.value || !isLive.value) return;
  if (!draft.value.trim()) {
    failure.value = "write a text first: what the model reads";
    return;
  }
  batch(() => {
    running.value = true;
    failure.value = "";
    [prompt.value, seed.value] = [draft.value, draftSeed.value];
  });
  const asked = wanted();
  try {
    const what = { model: model.value, beside: beside.value || null, prompt: prompt.value, seed: seed.value };
    const found = await theSource().run(what);
    take(found.pass, found.sides);
    shown = asked;
  } catch (error) {
    failure.value = lineOf(error);
    notice.value = "";
  } finally {
    running.value = false;
  }
}

function take(id: string, found: Sides): void {
  const { tokens, card } = found.A;
  batch(() => {
    fit({ query: tokens.length, key: tokens.length, layer: card.n_layer, head: card.n_head, token: card.vocab_size });
    if (!found.B) show.value = "A";
    setPass(id, found);
  });
}

/** The server has dropped the pass, or was started again: the prompt is run once more, which the page says. */
async function again(): Promise<void> {
  if (running.value) return;
  notice.value = "The server no longer had this pass (it was started again, or needed the memory); the prompt was run again.";
  await run();
}

export async function start(page: DocumentData, text: (id: string) => string | null): Promise<void> {
  isLive.value = page.live;
  about.value = page.about ?? [];
  tour.value = page.tour ?? [];
  failure.value = page.error ?? "";
  prompt.value = page.prompt ?? "";
  seed.value = page.seed ?? 0;
  if (page.panel) panel.value = page.panel;
  setSource(page.live ? live(page.token ?? "") : embedded(page, text), () => void again());
  open(location.hash);
  if (page.sides) {
    model.value = page.sides.A.model;
    beside.value = page.sides.B?.model ?? "";
    take("file", page.sides);
    const [first] = about.value;
    if (first && !about.value.some(({ id }) => id === panel.value)) panel.value = first.id;
  }
  if (page.live) await connect();
  keepAddress(() => {
    if (isLive.value && wanted() !== shown) void run();
  });
}

async function connect(): Promise<void> {
  try {
    models.value = await theSource().models();
  } catch (error) {
    failure.value = lineOf(error);
    return;
  }
  const names = models.value.map((one) => one.name);
  if (!names.includes(model.value)) {
    if (model.value) failure.value = `the server has no model ${model.value}; it has ${names.join(", ")}`;
    model.value = names[0] ?? "";
  }
  if (!names.includes(beside.value)) beside.value = "";
  if (prompt.value) await run();
}

export const started = (): boolean => pass.value !== "" && sides.value !== null;
