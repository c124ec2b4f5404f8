"""What a tokenizer costs: parameters for its vocabulary, tokens for what it was not made for.

Adds to bpe.py and unigram.py the measurements of the lesson. All texts are held out, or written here.

    python 01_tokenizer/run.py             prints the tables and draws the figures
"""
import warnings
from pathlib import Path

from bpe import SPECIAL, Tokenizer, train
from figures import GREY, new_axes, save
from unigram import Unigram
from unigram_training import train_unigram

WIDTH, BODY = 128, 786_432   # of chapter 3's model: 4 layers of 12 x width^2 parameters, embedding tied

KINDS = {
    "frequent words": "the list of the values that the function returns",
    "rare words": "antidisestablishmentarianism floccinaucinihilipilification",
    "numbers": "3.14159265 1234567 2024-05-01 0xDEADBEEF",
    "code": "for i, x in enumerate(rows):\n    total += x[i] ** 2\n",
    "Greek": "Το γοργόν και χάριν έχει, λέει ο λαός",
    "Arabic": "الصبر مفتاح الفرج كما يقول المثل",
    "Hindi": "जहाँ चाह वहाँ राह होती है",
    "Chinese": "千里之行，始于足下，这是一句老话",
    "Thai": "ช้าๆ ได้พร้าเล่มงาม เขาว่าอย่างนั้น",
    "emoji": "👍🏽 👩‍👩‍👧‍👦 🇳🇱 😀🎉",
}
# Universal Declaration of Human Rights, article 1, first sentence.
LANGUAGES = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。",
}


def bytes_per_token(tokenizer: Tokenizer | Unigram, text: str) -> float:
    """How many bytes of this text one token covers on average."""
    return len(text.encode()) / len(tokenizer.encode(text))


def by_size(texts: list[str], held_out: str, sizes: list[int]) -> list[dict]:
    """For each vocabulary size: bytes a token of BPE and Unigram on held-out text, and the embedding's cost.

    A text with fewer merges than asked ends the list early.
    """
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # the sizes that are reached are in the table
        merges = train(texts, max(sizes) - len(SPECIAL))
        for size in sizes:
            if size - len(SPECIAL) - 256 > len(merges):
                break
            bpe = Tokenizer(merges[:size - len(SPECIAL) - 256])
            unigram = Unigram(train_unigram(texts, size - len(SPECIAL)))
            rows.append({"vocabulary": size, "bpe": bytes_per_token(bpe, held_out),
                         "unigram": bytes_per_token(unigram, held_out), "embedding": size * WIDTH,
                         "share": size * WIDTH / (size * WIDTH + BODY)})
    return rows


def tokens_of(tokenizer: Tokenizer | Unigram, texts: dict[str, str]) -> dict[str, dict]:
    """For each named text: its characters, bytes and tokens."""
    return {name: {"characters": len(text), "bytes": len(text.encode()),
                   "tokens": len(tokenizer.encode(text))} for name, text in texts.items()}


def print_costs(rows: list[dict], kinds: dict[str, dict], languages: dict[str, dict]) -> None:
    """The three tables of the lesson."""
    print(f"  {'vocabulary':>10} {'BPE':>6} {'Unigram':>8}   bytes a token, held-out text   embedding")
    for row in rows:
        print(f"  {row['vocabulary']:>10,} {row['bpe']:>6.2f} {row['unigram']:>8.2f} {'':>31} "
              f"{row['embedding']:>9,} parameters, {row['share']:.0%} of the model")
    for title, table in (("kind of text", kinds), ("the same sentence", languages)):
        print(f"  {title:<18} characters  bytes  tokens  tokens a character")
        for name, row in table.items():
            print(f"  {name:<18} {row['characters']:>10} {row['bytes']:>6} {row['tokens']:>7}"
                  f" {row['tokens'] / row['characters']:>19.2f}")


def draw_sizes(path: Path, rows: list[dict]) -> None:
    """Bytes a token against the size of the vocabulary, BPE and Unigram."""
    axes = new_axes("What a larger vocabulary buys, on held-out text", "vocabulary (tokens)", "bytes a token")
    sizes = [row["vocabulary"] for row in rows]
    axes.plot(sizes, [row["bpe"] for row in rows], "o-", color="black", label="BPE")
    axes.plot(sizes, [row["unigram"] for row in rows], "s--", color=GREY, label="Unigram")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    save(axes, path)


def draw_share(path: Path, rows: list[dict]) -> None:
    """The share of a small model's parameters that is its embedding."""
    title = f"What it costs a model of width {WIDTH}"
    axes = new_axes(title, "vocabulary (tokens)", "embedding, % of parameters")
    axes.plot([row["vocabulary"] for row in rows], [100 * row["share"] for row in rows], "o-", color="black")
    axes.set_ylim(0, 100)
    save(axes, path)


def draw_languages(path: Path, languages: dict[str, dict]) -> None:
    """How many tokens the same sentence takes."""
    axes = new_axes("The same sentence, by a tokenizer learned from English", "tokens", "")
    names = list(languages)[::-1]
    axes.barh(names, [languages[name]["tokens"] for name in names], color=GREY)
    save(axes, path)
