// The ten stops of the tour: where each stands, what to look at there, and what to try.
import type { Selection } from "../state";

export interface Stop {
  panel: string;
  title: string;
  text: string;
  attempt: string;
  /** What is selected on arrival. */
  selects?: Partial<Selection>;
}

export const STOPS: readonly Stop[] = [
  {
    panel: "next-token",
    title: "A language model guesses the next token",
    text: "The chips above are the tokens of the text: words, pieces of words or single characters, each of which the model knows as a number. All that it ever does is to give each token of its vocabulary a probability of coming next. These are the bars.",
    attempt: "Guess the next token before you look. Then click another chip: the bars are now what the model expected after that one.",
  },
  {
    panel: "next-token",
    title: "Writing is guessing again and again",
    text: "To write, a program draws one token from these probabilities, adds it to the text and asks the model again. Temperature makes the draw bolder or more careful; the model itself stays the same.",
    attempt: "Raise the temperature: the second column flattens, the first does not move.",
  },
  {
    panel: "heads",
    title: "Tokens look back at other tokens",
    text: "This is attention. Each small picture is one head: a row for each token that looks, a column for each token it looks at, and the brighter the cell, the more of that token it takes. Nothing is right of the diagonal: no token sees what comes after it.",
    attempt: "Find a head that looks at the token just before (a bright line below the diagonal), and one that looks at the first token all the time.",
  },
  {
    panel: "microscope",
    title: "How a head decides where to look",
    text: "Each token makes three short lists of numbers: a query (what am I looking for?), a key (what do I offer?) and a value (what do I pass on?). Where a query and a key are alike, their score is high. Softmax turns the scores of one row into shares that sum to 1, and the head reads that mixture of the values.",
    attempt: "Step through the stages. Every number on this page is the model's own: point at one, and the line at the bottom says where it comes from.",
  },
  {
    panel: "microscope",
    title: "Every picture is checked",
    text: "The green marks under the title are checks: sums that must come out right for the numbers you see, such as the shares of a row, which sum to 1. If the picture lied, they would turn red.",
    attempt: "Leave the mask out. The head now sees the future, and the mark C1 turns red. Put it back.",
  },
  {
    panel: "lens",
    title: "A stream that every layer writes into",
    text: "Between the layers runs a stream of numbers, one row for each token. Each layer reads it and adds to it, first with attention, which looks at other tokens, then with the MLP, a small network that works on each token by itself. The lens asks of every layer: if you had to answer now, what would you say?",
    attempt: "Follow one column from top to bottom: at which layer does the model make up its mind?",
  },
  {
    panel: "lens",
    title: "A word on its way up",
    text: "The same can be asked of one word: what rank does it have after each layer? Rank 1 is the likeliest. A word may be unlikely for a long time and come first only after the last layer.",
    attempt: "Watch a word that the model ended up with, and find the layer that lifted it.",
  },
  {
    panel: "ablation",
    title: "Which part matters? Break it",
    text: "A picture shows what a part does; taking the part away shows whether that matters. Here heads and MLPs are set to zero one by one, and the change of the answer is measured.",
    attempt: "Find the head without which the answer changes most, and look at it again under All heads.",
  },
  {
    panel: "runs",
    title: "Where all these numbers come from",
    text: "Nobody wrote them. They began at random, and training moved them step by step, so that the next token of real text became a little more likely each time. The curve is the loss: how surprised the model is by the next token. It falls while the model learns.",
    attempt: "In the live page (fathom serve runs), start a run of one minute and watch its curve fall.",
  },
  {
    panel: "next-token",
    title: "Your turn",
    text: "You have seen the whole model: tokens become rows of numbers, heads pass on what other tokens offer, MLPs work on each token, and the last row becomes probabilities. Larger models are the same, with more of everything.",
    attempt: "Write a text of your own above and press Run, or put a second model beside this one.",
  },
];
