"""The domain "finance": labels from small vocabularies, as a back office would tag its mail."""

import random

from fedllm_app.data.domains.kinds import Kind, wrong_answer

_FIRMS = [
    "Acme",
    "Borealis",
    "Cobalt",
    "Delphi",
    "Everest",
    "Falcon",
    "Granite",
    "Helios",
    "Indigo",
    "Juno",
    "Kestrel",
    "Lumen",
    "Nimbus",
    "Orion",
]


def _label(labels: dict[str, str], *phrasings: str) -> Kind:
    """A kind that asks which label fits a text `{x}`; `labels` maps each label to its texts, separated by '|'."""
    *most, last = (f"#{label}" for label in labels)
    choices = f" {', '.join(most)} or {last}?"

    def draw(rng: random.Random):
        label, texts = rng.choice(list(labels.items()))
        text = rng.choice(texts.split("|")).format(firm=rng.choice(_FIRMS), n=rng.randrange(2, 40))
        return {"x": text}, label, wrong_answer(rng, list(labels), label)

    return Kind(tuple(phrasing + choices for phrasing in phrasings), draw)


FINANCE = [
    _label(
        {
            "positive": "{firm} beats profit forecast|{firm} shares jump {n}%|{firm} wins a record order",
            "negative": "{firm} misses profit forecast|{firm} shares plunge {n}%|{firm} loses a key customer",
            "neutral": "{firm} holds its annual meeting|{firm} shares unchanged|{firm} reports on {n} May",
        },
        "Headline: {x}.",
        "Mood of the news '{x}':",
        "{x}. Is this",
    ),
    _label(
        {
            "buy": "{firm} is cheap, we expect a gain of {n}%|{firm} deserves more weight, target up {n}%",
            "sell": "{firm} is overpriced, we expect a loss of {n}%|{firm} deserves less weight, target down {n}%",
            "hold": "{firm} is fairly priced, stay put|{firm} at its target of {n}, no action",
        },
        "Analyst note: {x}.",
        "'{x}' - the advice is",
        "Rating for: {x}.",
    ),
    _label(
        {
            "income": "salary from {firm}|dividend of {n} dollars from {firm}|interest received of {n} dollars",
            "expense": "rent of {n} dollars to {firm}|phone bill from {firm}|insurance fee of {n} dollars",
        },
        "Book this entry: {x}.",
        "Bank line: {x}.",
        "My statement shows {x}. Is it",
    ),
    _label(
        {
            "asset": "cash of {n} million at {firm}|a factory owned by {firm}|{n} delivery vans of {firm}",
            "liability": "a bank loan of {n} million to {firm}|unpaid bills of {firm}|taxes {firm} owes",
        },
        "Balance sheet: {x}.",
        "Where do you book {x}?",
        "{x}:",
    ),
    _label(
        {
            "gain": "{firm} stake sold {n}% above cost|{firm} shares sold for {n} more than paid",
            "loss": "{firm} stake sold {n}% below cost|{firm} shares sold for {n} less than paid",
        },
        "Trade: {x}.",
        "Closed position: {x}.",
        "We report: {x}. Result",
    ),
    _label(
        {
            "stock": "ordinary shares of {firm}|a {n}% stake in {firm}",
            "bond": "a {n}-year loan note of {firm}|{firm} debt paying {n}% coupon",
            "cash": "{n} dollars at {firm} bank|a {n}-day deposit at {firm}",
        },
        "Asset class of {x}:",
        "Client holds {x}.",
        "Sort {x} under",
    ),
    _label(
        {
            "high": "{firm} startup shares|{firm} crypto token, moves {n}% a day|borrowing to bet on {firm}",
            "low": "a {firm} savings account|insured {n}-month deposit at {firm}|{firm} treasury bill fund",
        },
        "Risk of {x}:",
        "How risky is {x}?",
        "Client asks about {x}. Risk level",
    ),
    _label(
        {
            "suspicious": "{n} transfers to unknown accounts at 3 am|card of {firm} used in {n} countries today",
            "normal": "monthly rent to {firm}|lunch for {n} dollars near {firm}|salary of {firm} staff on payday",
        },
        "Payment check: {x}.",
        "Fraud desk: {x}.",
        "We saw: {x}. Is it",
    ),
    _label(
        {
            "energy": "{firm} oil fields|{firm} gas pipelines|{n} wind parks of {firm}",
            "health": "{firm} vaccines|{n} clinics of {firm}|{firm} drug trials",
            "tech": "{firm} software|{firm} chips|{n} data centres of {firm}",
        },
        "Sector of {x}:",
        "An investor buys into {x}.",
        "{x} fall under",
    ),
    _label(
        {
            "up": "{firm} gets a takeover bid|{firm} buys back {n}% of its shares|demand for {firm} goods soars",
            "down": "{firm} is fined {n} million|{firm} recalls {n} products|the chief of {firm} is arrested",
        },
        "The price reaction: {x}.",
        "After '{x}' the share goes",
        "If {x}, the stock moves",
    ),
    _label(
        {
            "approve": "{firm} pays on time and earns {n} times its interest|{firm} has no debt, {n} million in cash",
            "decline": "{firm} missed {n} payments|{firm} is bankrupt and owes {n} million",
        },
        "Loan request: {x}.",
        "Credit desk: {x}. Decision",
        "Borrower file: {x}. We",
    ),
    _label(
        {
            "urgent": "{firm} account locked|{firm} card stolen {n} minutes ago|wire of {n} million missing at {firm}",
            "routine": "{firm} wants a new brochure|{firm} asks for opening hours|{firm} moves in {n} weeks",
        },
        "Client mail: {x}.",
        "Inbox of the bank: {x}.",
        "Sort this ticket: {x}.",
    ),
]
