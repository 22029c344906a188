// A time in milliseconds, by the clock: no Python prints the same again.
import { readable } from "../arithmetic/number";

export function Timed({ seconds }: { seconds: number | undefined }) {
  if (seconds === undefined) return <>–</>;
  return <span data-kind="measured" data-source="wall clock" title="Measured once, by the clock: it cannot be repeated exactly">{readable(seconds * 1000)}</span>;
}
