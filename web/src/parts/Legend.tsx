// Which colour is which number.
import { cssColour, type Scale } from "../arithmetic/colour";
import { readable, signed } from "../arithmetic/number";
import { dark } from "../theme";

export function Legend({ scale, hatched }: { scale: Scale; hatched?: string | undefined }) {
  const [low, high] = scale.kind === "range" ? [scale.low, scale.high] : [-scale.most, scale.most];
  const stops = Array.from({ length: 9 }, (_, i) => cssColour(low + ((high - low) * i) / 8, scale, dark.value));
  const say = scale.kind === "signed" ? signed : readable;
  return (
    <p class="legend small">
      {say(low)} <span class="ramp" style={{ background: `linear-gradient(to right, ${stops.join(",")})` }} /> {say(high)}
      {hatched ? <><span class="hatched" /> {hatched}</> : null}
    </p>
  );
}
