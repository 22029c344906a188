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
    text: "The chips above are the tokens of the text: pieces of words, which the model knows as numbers. All that it ever does is to give each token of its vocabulary a probability of coming next. These are the bars.",
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
    text: "This is attention. Each small picture is one head: a row for each token that looks, a column for each token it looks at, and bright where it looks hard. Nothing is right of the diagonal: no token sees what comes after it.",
    attempt: "Find a head that looks at the token just before (a bright line below the diagonal), and one that looks at the first token all the time.",
  },
  {
    panel: "microscope",
    title: "How a head decides where to look",
    text: "Each token makes a query (what am I looking for?), a key (what do I offer?) and a value (what do I pass on?). A query times a key is a score; softmax turns the scores of one row into weights that sum to 1; the weighted values are what the head reads.",
    attempt: "Step through the stages. Every number on this page is the model's own: point at one, and the line at the bottom says where it comes from.",
  },
  {
    panel: "microscope",
    title: "Every picture is checked",
    text: "The green marks under the title are identities that must hold for the numbers you see, such as: each row of weights sums to 1. If the picture lied, they would turn red.",
    attempt: "Switch the mask off. The head now sees the future, and the check C1 turns red. Switch it on again.",
  },
  {
    panel: "lens",
    title: "A stream that every layer writes into",
    text: "Between the layers runs a stream of numbers, one row for each token. Attention and the MLP of each layer read it and add to it. The lens asks of every layer: if you had to answer now, what would you say?",
    attempt: "Follow one column from top to bottom: at which layer does the model make up its mind?",
  },
  {
    panel: "lens",
    title: "What a token was worth at each layer",
    text: "The same can be asked for one word: which rank has it after each layer? A word may be unlikely for a long time and become the favourite in the last step.",
    attempt: "Watch a word that the model ended up with, and find the layer that lifted it.",
  },
  {
    panel: "ablation",
    title: "Which part matters? Break it",
    text: "A picture shows what a part does; taking the part away shows whether that matters. Here heads and MLPs are set to zero one by one, and the change of the answer is measured.",
    attempt: "Find the head whose loss changes the answer most, and look at it again under All heads.",
  },
  {
    panel: "runs",
    title: "Where all these numbers come from",
    text: "Nobody wrote them. They began at random, and training moved them step by step so that the next token of real text became a little more likely. The falling curve is that surprise, the loss.",
    attempt: "In the live page (fathom serve runs), start a run of one minute and watch its curve fall.",
  },
  {
    panel: "next-token",
    title: "Your turn",
    text: "You have seen the whole model: tokens become rows of numbers, heads pass on what other tokens offer, MLPs work on each token, and the last row becomes probabilities. Larger models are the same, with more of everything.",
    attempt: "Write a text of your own above and press Run, or put a second model beside this one.",
  },
];
