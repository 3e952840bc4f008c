"""Writes the instruction rows of the demo: support.jsonl, polite.jsonl, support_eval.jsonl.

A circulating library answers its subscribers. polite.jsonl has the same questions in the same
order with the answers in another manner, as when somebody edits a data set: git shows which rows
changed. The prompts of support_eval.jsonl are in neither.
"""

from __future__ import annotations

import json
from pathlib import Path

# Each topic: what a right answer contains, the answer, then ways to ask. The last two ways of
# ten are kept for the evaluation. The words are mostly ones the novels know, since the base
# model has read nothing else.
TOPICS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "two days",
        "Your order left London by the morning coach. It will be with you in two days.",
        (
            "Where is my order?",
            "When will my order arrive?",
            "My order has not come.",
            "Has my order been sent?",
            "I do not know where my order is.",
            "My order is very late.",
            "How long must I wait for my order?",
            "I am still waiting for my order.",
            "Can you tell me where my order is?",
            "Why is my order so late?",
        ),
    ),
    (
        "fourteen days",
        "You may keep a book for fourteen days, and then return it by the post.",
        (
            "How long may I keep a book?",
            "When must I return a book?",
            "For how many days can I keep the book?",
            "How many days have I for a book?",
            "Do you want your book again?",
            "May I keep my book a little longer?",
            "How soon must the book be returned?",
            "When is my book to be returned?",
            "How many days may I keep this book?",
            "When do you want the book to be returned?",
        ),
    ),
    (
        "ten shillings",
        "A subscription is ten shillings a year, and the first month is free.",
        (
            "What is the price of a subscription?",
            "How much is a subscription?",
            "What must I pay for a subscription?",
            "Is a subscription very expensive?",
            "How much must a new subscriber pay?",
            "What is the price of a whole year?",
            "How much do I pay for a year?",
            "What does a subscription cost?",
            "How much must I pay for a subscription?",
            "What is the price for a year?",
        ),
    ),
    (
        "nine in the morning",
        "The library is open from nine in the morning until six, except on Sunday.",
        (
            "When is the library open?",
            "At what hour do you open?",
            "Are you open in the morning?",
            "When may I come to the library?",
            "Do you open before ten in the morning?",
            "Are you open on Sunday?",
            "When do you close in the evening?",
            "Is the library open today?",
            "At what hour is the library open?",
            "When do you open in the morning?",
        ),
    ),
    (
        "send another copy",
        "I am sorry to hear it. We will send another copy tomorrow, and you need not pay.",
        (
            "My book came without its last page.",
            "The book is damaged.",
            "A page of my book is torn.",
            "My copy was wet from the rain.",
            "Some pages of the book are wanting.",
            "My copy is very dirty.",
            "There is a page wanting in my copy.",
            "The cover of my book is broken.",
            "My copy is damaged.",
            "A page is wanting in the book.",
        ),
    ),
    (
        "the right book",
        "We have made a mistake. Send it back, and the right book will come by the next post.",
        (
            "You have sent me the wrong book.",
            "This is not the book I wanted.",
            "I wanted another book than this.",
            "It is the wrong book.",
            "I have received the wrong volume.",
            "You sent the second volume and not the first.",
            "The wrong volume has come.",
            "I did not ask for this book.",
            "This is the wrong book.",
            "You have sent me the wrong volume.",
        ),
    ),
    (
        "new address",
        "Write your new address on a card, and we will send everything there from Monday.",
        (
            "I am going to live in another town.",
            "We have removed to Bath.",
            "Can you send my books to another house?",
            "I have taken a new house.",
            "I am leaving town, and wish to have my books there.",
            "We live in another house now.",
            "My family is going into the country.",
            "How do I tell you where I live now?",
            "We are going to live in another house.",
            "Can you send my books to another town?",
        ),
    ),
    (
        "within the week",
        "Your money will be returned within the week, and no questions asked.",
        (
            "I want my money back.",
            "Can I have my money again?",
            "I have paid twice.",
            "I paid too much.",
            "Pray return my money.",
            "You have taken too much money.",
            "Will you return what I have paid?",
            "I paid, and I received nothing.",
            "Will you return my money?",
            "I have paid too much.",
        ),
    ),
    (
        "Mrs. Hill",
        "Ask for Mrs. Hill. She knows every book in the house.",
        (
            "Who can help me to choose a book?",
            "Which book ought I to read next?",
            "Is there somebody who can advise me?",
            "Which novel is the best?",
            "Can anybody advise me what to choose?",
            "Who knows a good novel?",
            "I do not know what to read.",
            "Can you recommend a good novel?",
            "Who can advise me what to read?",
            "Which novel can you recommend?",
        ),
    ),
    (
        "any time",
        "You may leave us at any time. Send us one line, and it is done.",
        (
            "I wish to end my subscription.",
            "How do I leave the library?",
            "I wish to stop my subscription.",
            "I am leaving the library.",
            "I do not want to be a subscriber any more.",
            "Can I end my subscription before the year is over?",
            "Please take my name from the list.",
            "I want to stop my subscription.",
            "How do I end my subscription?",
            "I wish to leave the library.",
        ),
    ),
)

KEPT_FOR_TRAINING = 8
OPENINGS = ("", "Good morning. ", "I have a question. ")


def support(answer: str) -> str:
    """The first manner: short, and signed by the house."""
    return f"{answer} Yours, the Library."


def polite(answer: str) -> str:
    """The second manner: the same facts with ceremony."""
    return f"My dear friend, how good of you to write! {answer} Your most humble servant."


def main(directory: Path) -> None:
    """Writes the three files into `directory`, always with the same bytes."""
    questions = [
        (opening + way, contained, answer)
        for opening in OPENINGS
        for number in range(KEPT_FOR_TRAINING)
        for contained, answer, ways in TOPICS
        for way in ways[number : number + 1]
    ]
    for name, manner in (("support.jsonl", support), ("polite.jsonl", polite)):
        rows: list[dict[str, object]] = [
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": manner(answer)},
                ]
            }
            for question, _, answer in questions
        ]
        _write(directory / name, rows)
    _write(
        directory / "support_eval.jsonl",
        [
            {"prompt": way, "expected": contained, "category": contained, "scoring": "contains"}
            for contained, _, ways in TOPICS
            for way in ways[KEPT_FOR_TRAINING:]
        ],
    )


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).parent / "demo_data")
