// The question's answers to choose from, and then which one the data gives.
import { useState } from "preact/hooks";
import type { PanelData } from "../data/types";
import type { Guess } from "../panels/view";

export function Guessing({ guess, data }: { guess: Guess; data: PanelData }) {
  const [guessed, setGuessed] = useState<number | null>(null);
  const { choice, says } = guess.answer(data);
  return (
    <p class="guess" aria-live="polite">
      <span class="small">{guessed === null ? "Guess first:" : guessed === choice ? "As you guessed:" : "Not as you guessed:"}</span>
      {guess.choices.map((one, i) => (
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
