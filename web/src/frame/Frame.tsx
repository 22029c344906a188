// Everything around the panels.
import { useEffect } from "preact/hooks";
import { about, failure, isLive, notice, running, started } from "../app";
import { retry } from "../data/store";
import { viewOf } from "../panels";
import { follow, forgetOptions, late, panel, preview, setOption } from "../state";
import { usePanel } from "../usePanel";
import { BesideSwitch } from "./Beside";
import { Chips } from "./Chips";
import { Explanation } from "./Explanation";
import { Guessing } from "./Guessing";
import { onKey } from "./keys";
import { ModelMap } from "./ModelMap";
import { ModelCard } from "./ModelCard";
import { NumberLine } from "./NumberLine";
import { PanelNav } from "./PanelNav";
import { PromptBar } from "./PromptBar";
import { TokenStrip } from "./TokenStrip";
import { Tour } from "../tour/Tour";
import { drawer } from "./drawers";
import "./frame.css";

export function Frame() {
  useEffect(() => {
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return (
    <div class="frame" data-drawer={drawer.value} onPointerLeave={() => (preview.value = {})}>
      <header class="top">
        <ModelCard />
        <PromptBar />
      </header>
      <Messages />
      {started() ? <TokenStrip /> : null}
      {started() ? <Tour /> : null}
      <PanelNav />
      <div class="columns">
        <ModelMap />
        {started() ? <Centre key={panel.value} id={panel.value} /> : <Nothing />}
      </div>
      <NumberLine />
    </div>
  );
}

function Messages() {
  return (
    <div class="messages" aria-live="polite">
      {failure.value ? (
        <p class="message failed" role="alert">{failure.value}</p>
      ) : null}
      {notice.value ? (
        <p class="message">
          {notice.value} <button onClick={() => (notice.value = "")}>Close</button>
        </p>
      ) : null}
    </div>
  );
}

function Nothing() {
  return (
    <main class="centre">
      <p class="absent">{running.value ? "The model reads…" : "Write a text above and press Run to see what the model makes of it."}</p>
    </main>
  );
}

function Centre({ id }: { id: string }) {
  const view = viewOf(id);
  const said = about.value.find((one) => one.id === id);
  const found = usePanel(id);
  late.now = found.loading;
  useEffect(() => follow(found.data?.series ?? {}), [found.data]);
  if (!view || !said)
    return (
      <main class="centre">
        <p class="absent">No panel is called “{id}”. Choose one above.</p>
      </main>
    );
  const { data, error, loading, signed } = found;
  const set = (name: string, value: Parameters<typeof setOption>[2], dragged?: boolean): void => setOption(id, name, value, dragged);
  return (
    <>
      <main class="centre" aria-busy={loading} data-panel={id}>
        <div class="panel-head" data-loading={loading}>
          <h1>{said.title}</h1>
          <p class="question">{said.question}</p>
          {data?.guess && !signed ? <Guessing {...data.guess} /> : null}
          <div class="row panel-tools">
            <BesideSwitch />
            {data ? <Chips checks={data.checks} /> : null}
          </div>
        </div>
        {error ? <p class="message failed" role="alert">{error} <button onClick={isLive.value ? retry : () => forgetOptions(id)}>{isLive.value ? "Try again" : "Back"}</button></p> : null}
        {!data && loading ? <p class="absent">Computing…</p> : null}
        {data?.absent ? <p class="absent" data-absent>{data.absent}</p> : null}
        {data && !data.absent && !error ? (
          <div class="panel-body">
            <view.View data={data} panel={found} signed={signed} options={data.options} set={set} />
          </div>
        ) : null}
      </main>
      <Explanation about={said} data={data} />
    </>
  );
}
