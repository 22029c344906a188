// A text that grows while one watches, as long as one likes.
import { useEffect, useRef, useState } from "preact/hooks";
import { grouped, readable } from "../../arithmetic/number";
import { visible } from "../../arithmetic/text";
import { lineOf, pass, theSource } from "../../data/store";
import type { Options } from "../../data/types";
import { show } from "../../state";
import { ENDS, type Last, type Row } from "./rows";

const MOST = 256;

export function Live({ options }: { options: Options }) {
  const [rows, setRows] = useState<Row[]>([]);
  const [said, say] = useState("");
  const [running, setRunning] = useState<AbortController | null>(null);
  const stop = useRef<AbortController | null>(null);
  useEffect(() => () => stop.current?.abort(), []);

  const start = async (): Promise<void> => {
    const control = new AbortController();
    stop.current = control;
    setRunning(control);
    setRows([]);
    say("");
    const { temperature, top_k, top_p, min_p, cache, fault } = options;
    const body = { pass: pass.value, side: show.value === "B" ? "B" : "A", max_new_tokens: MOST, twin: false, temperature, top_k, top_p, min_p, cache, fault };
    try {
      await theSource().stream("/api/generate", body, (row) => {
        const line = row as Partial<Row & Last & { error: string }>;
        if (line.error) say(line.error);
        else if (line.done !== undefined) say(ENDS[line.done] ?? "");
        else setRows((before) => [...before, row as Row]);
      }, control.signal);
    } catch (error) {
      say(control.signal.aborted ? (ENDS.stopped ?? "") : lineOf(error));
    } finally {
      stop.current = null;
      setRunning(null);
    }
  };
  const last = rows.at(-1);
  const seconds = rows.slice(1).reduce((sum, row) => sum + row.seconds, 0);
  return (
    <section>
      <h2>Keep writing</h2>
      <div class="controls">
        {running ? <button onClick={() => running.abort()}>Stop</button> : <button onClick={() => void start()}>Generate up to {MOST} tokens</button>}
        {last ? <span class="small" aria-live="off">{rows.length} tokens{rows.length > 1 ? `, ${readable((seconds * 1000) / (rows.length - 1))} ms each after the first` : ""}, {grouped(last.bytes)} bytes kept</span> : null}
        {said ? <span class="small">{said}</span> : null}
      </div>
      {rows.length ? <p class="grown-text" data-live>{rows.map((row) => <span key={row.step} class="grown-token" title={`id ${row.id}, ${readable(row.seconds * 1000)} ms, log-probability ${readable(row.logprob)}`}>{visible(row.text)}</span>)}</p> : null}
    </section>
  );
}
