// The question's answers to choose from, and then which one the data gives.
import { useState } from "preact/hooks";
import type { Guess } from "../data/types";

export function Guessing({ choices, choice, says }: Guess) {
  const [guessed, setGuessed] = useState<number | null>(null);
  return (
    <p class="row guess" aria-live="polite">
      <span class="small">{guessed === null ? "Guess first:" : guessed === choice ? "As you guessed:" : "Not as you guessed:"}</span>
      {choices.map((one, i) => (
        <button
          key={one} aria-pressed={guessed === i} data-right={guessed !== null && i === choice} data-wrong={guessed === i && i !== choice}
          onClick={() => setGuessed(i)}
        >
          {one}
        </button>
      ))}
      {guessed === null ? null : <span>{says}</span>}
    </p>
  );
}
