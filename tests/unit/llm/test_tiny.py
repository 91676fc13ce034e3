"""The embedded LLM: its corpus is right by construction, its folder loads, it chooses among candidates."""

import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmbole.llm.tiny import (
    FOLDER,
    answers,
    copying,
    corpus,
    latent,
    matching,
    measure,
    pretrain,
    samples,
    titles,
)
from llmbole.llm.tiny.encoding import Encoder
from llmbole.llm.tiny.initial import embeddings
from llmbole.llm.tiny.samples import show

WORDS_OF_MOVIELENS = (
    "Casablanca",
    "Fargo",
    "GoldenEye",
    "Braveheart",
    "Trainspotting",
    "Jumanji",
    "Pinocchio",
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def made(task: str, number: int = 40, most: int = 6) -> list[samples.Sample]:
    rng = random.Random(f"test-{task}")
    return [corpus.TASKS[task](rng, most) for _ in range(number)]


def test_importing_the_folder_imports_nothing_heavy():
    code = (
        "import sys, llmbole.llm.tiny; assert not {'torch', 'transformers', 'wonderwords'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_the_folder_is_small_and_complete():
    files = {each.name: each.stat().st_size for each in FOLDER.iterdir()}
    assert sum(files.values()) <= 10_000_000
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"}
    assert needed <= set(files)


def test_the_model_is_a_small_llama_with_tied_embeddings(model):
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.num_parameters() <= 2_000_000
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.max_position_embeddings == 2048


@pytest.mark.parametrize(
    "text", ["naïve café", "日本語 🎉", ' "a"\n\n"b" ', "\x00\t x  ", "Toy's Story, The (1995)"]
)
def test_the_tokenizer_round_trips_any_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer(text).input_ids == [tokenizer.bos_token_id, *ids]


def test_special_tokens(tokenizer, model):
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    assert tokenizer("<s> is", add_special_tokens=False).input_ids[0] == tokenizer.bos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size


def test_a_title_has_the_same_tokens_in_a_prompt_and_in_an_answer(tokenizer):
    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    inside, alone = encode('set, "A Few Good Men",'), encode('"A Few Good Men"')
    title = alone[1:-1]  # the opening quote may join the space before it, the closing one the comma behind it
    assert any(inside[start : start + len(title)] == title for start in range(len(inside)))


def test_the_corpus_is_decided_by_its_seed():
    def take(seed: int) -> list[samples.Sample]:
        return [each for each, _ in zip(corpus.stream(seed), range(50), strict=False)]

    assert take(1) == take(1)
    assert take(1) != take(2)


def test_the_curriculum_names_known_tasks_and_ends_with_all_candidates():
    assert all(set(mixture) <= set(corpus.TASKS) for _, mixture, _ in corpus.CURRICULUM)
    assert set(corpus.INSTRUCTIONS) == set(corpus.TASKS)
    assert corpus.stage(0.0)[0] == corpus.COPYING
    assert corpus.stage(1.0) == (corpus.INSTRUCTIONS, 20)


@pytest.mark.parametrize(
    "task", ["exact_symbols", "exact_words", "frequent_symbols", "overlap_symbols", "free"]
)
def test_choices_answer_with_one_of_different_candidates_of_the_prompt(task):
    for sample in made(task):
        text = show(sample.prompt)
        assert len(set(sample.candidates)) == len(sample.candidates) >= 2
        assert all(f'"{each}"' in text for each in sample.candidates)
        assert measure.chosen(sample.answer, sample.candidates) is not None


def test_the_exact_rule_gives_the_users_attribute_to_one_candidate():
    rng = random.Random(0)
    for _ in range(50):
        problem = matching.exact(rng, 5, 4)
        assert [place for place, each in enumerate(problem.candidates) if each == problem.key] == [
            problem.chosen
        ]


def test_the_frequent_rule_names_the_historys_most_frequent_attribute():
    rng = random.Random(0)
    for _ in range(50):
        problem = matching.frequent(rng, 5, 6)
        (best, times), *rest = Counter(each for owned in problem.history for each in owned).most_common(2)
        assert problem.key == [] and problem.candidates[problem.chosen] == [best]
        assert not rest or rest[0][1] < times


def test_the_overlap_rule_has_one_best_candidate():
    rng = random.Random(0)
    for _ in range(200):
        problem = matching.overlap(rng, 8, 3)
        shared = [len(set(problem.key) & set(each)) for each in problem.candidates]
        assert shared[problem.chosen] == max(shared) and shared.count(max(shared)) == 1


def fits(user: samples.Weighted, items: list[samples.Weighted]) -> list[float]:
    """Inner products of latent vectors that are given by their numbered coordinates."""
    values = dict(user)
    return [sum(values[place - latent.LATENT] * each for place, each in item) for item in items]


def test_the_nearest_rule_names_the_greatest_inner_product():
    rng = random.Random(0)
    sure = 0
    for _ in range(80):
        problem = matching.nearest(rng, 6, 3)
        user, *others = problem.vectors
        assert all(0.4 < sum(each**2 for _, each in item) < 2.1 for item in others)
        if sum(each**2 for _, each in user) > 1:  # shorter users may be unsure
            sure += 1
            found = fits(user, [problem.vectors[place] for (place,) in problem.candidates])
            assert found.index(max(found)) == problem.chosen
    assert sure > 20


def test_short_latent_users_are_unsure():
    items = [[1.0, 0.0], [0.0, 1.0]]
    rng = random.Random(0)
    drawn = [latent.user(rng, items) for _ in range(3000)]
    sure = {True: [0, 0], False: [0, 0]}
    for vector, best in drawn:
        counts = sure[sum(each**2 for each in vector) < 0.04]
        counts[0] += 1
        counts[1] += items[best][0] * vector[0] + items[best][1] * vector[1] == max(vector)
    assert sure[True][1] < 0.95 * sure[True][0]
    assert sure[False][1] > 0.97 * sure[False][0]


def test_fit_tasks_answer_with_the_chunk_of_the_best_item():
    for task in ("fit_recall", "fit_lookup"):
        right = asked = 0
        for sample in made(task):
            pieces = [piece for turn in sample.turns for piece in (*turn.prompt, *turn.answer)]
            items = [piece for piece in pieces if samples.is_latent(piece) and piece[0][0] == latent.LATENT]
            listed = sample.turns[0].prompt
            users = [piece for piece in pieces if samples.is_latent(piece) and piece[0][0] == 0]
            chunks = re.findall(r'"((?:<\d+>)+)"<16', show(listed))
            assert len(chunks) == len(items) and len(users) == len(sample.turns)
            for user, turn in zip(users, sample.turns, strict=True):
                found = fits(user, items)
                answer = show(turn.answer).strip('"')
                best = chunks[found.index(max(found))]
                asked += 1
                right += answer == best if task == "fit_lookup" else best.startswith(answer)
        assert right > 0.85 * asked


def test_latent_vectors_are_mapped_and_marked(tokenizer):
    model, maps = pretrain.new_model(tokenizer)
    sample = made("nearest_vectors", 1)[0]
    encoded = Encoder(tokenizer)(sample, random.Random(0))
    batch = pretrain.collate([encoded])
    inputs = pretrain.embed(model, maps, batch, 0.0)[0]
    for place, coordinates in encoded.vectors.items():
        item = int(coordinates[0][0] >= latent.LATENT)
        mark = inputs[place] - sum(weight * maps.rows[number] for number, weight in coordinates)
        share = mark @ maps.marks[item] / maps.marks[item].norm() ** 2
        torch.testing.assert_close(mark, share * maps.marks[item], atol=1e-4, rtol=1e-4)
        assert -0.01 < share < 1.21
    text = [place for place in range(len(encoded.ids)) if place not in encoded.vectors]
    torch.testing.assert_close(inputs[text], embeddings(model)[batch.ids[0, text]])


def test_recall_and_echo_answer_with_the_chunk_s_first_symbol():
    for sample in made("recall"):
        first = dict(
            (key, chunk) for chunk, key in re.findall(r'"(<\d+>)[^"]*"(<\d+>)', show(sample.turns[0].prompt))
        )
        keys = [re.findall(r"<\d+>", show(turn.prompt))[-1] for turn in sample.turns]
        assert [show(turn.answer) for turn in sample.turns] == [first[key] for key in keys]
    for sample in made("echo"):
        keys = re.findall(r"<\d{4}>", show(sample.prompt))
        for turn in sample.turns:
            first, key = re.search(r'"(<\d+>)[^"]*"(<\d{4}>)$', show(turn.prompt)).groups()
            assert show(turn.answer) in (f"{first},", ",")
            assert (keys[0] == key) <= (show(turn.answer) != ",")


def test_lookups_answer_with_the_chunk_before_the_key():
    for sample in made("lookup_first"):
        text = show(sample.prompt)
        key = re.match(r"<\d+>", text).group()
        assert f"{sample.answer}{key}," in text


def test_permuted_copies_hold_the_same_chunks():
    for sample in made("permuted"):
        (turn,) = sample.turns
        assert Counter(show(turn.answer).split(",")) == Counter(show(turn.prompt).rstrip("\n").split(","))


def test_yes_means_that_an_attribute_is_liked():
    for sample in made("yes_no_symbols"):
        text = show(sample.prompt)
        if not re.match(r"(<\d+>)+<s> is a user", text):
            continue
        liked = set(re.findall(r"<\d+>", text.split("<s>")[0]))
        item = re.findall(r'"[^"]*"((?:<\d+>)+)', text)[-1]
        assert sample.answer == ("Yes" if liked & set(re.findall(r"<\d+>", item)) else "No")


def test_members_are_in_the_list():
    for sample in made("member"):
        quoted = [each for each in re.findall(r'"([^"]*)"', show(sample.prompt)) if each not in ("Yes", "No")]
        assert sample.answer == ("Yes" if quoted[-1] in quoted[:-1] else "No")


def test_sorted_titles_follow_their_scores():
    for sample in made("sort"):
        scores = dict(re.findall(r'"([^"]*)" (\d)', show(sample.prompt)))
        listed = [int(scores[each]) for each in re.findall(r'"([^"]*)"', sample.answer)]
        assert listed == sorted(map(int, scores.values()), reverse=True)


def test_ranked_titles_follow_their_shares():
    for sample in made("rank_symbols"):
        text = show(sample.prompt)
        liked = set(re.findall(r"<\d+>", text.split("<s>")[0]))
        owned = {
            each: len(liked & set(re.findall(r"<\d+>", own)))
            for each, own in re.findall(r'"([^"]*)"((?:<\d+>)+)', text)
        }
        listed = [owned[each] for each in re.findall(r'"([^"]*)"', sample.answer)]
        assert listed == sorted(owned.values(), reverse=True)


def test_a_rating_is_the_one_of_the_same_attribute():
    for sample in made("rate_symbols"):
        text = show(sample.prompt)
        asked = re.findall(r'"[^"]*"(<\d+>)', text)[-1]
        assert set(re.findall(rf'"{asked} (\d)', text)) == {sample.answer}


def test_copies_places_and_followers():
    for sample in made("copy"):
        assert sample.candidates[0] in show(sample.prompt) and sample.answer == f'"{sample.candidates[0]}"'
    for sample in made("place"):
        word = next(
            each for each in copying.PLACES if f" {each} " in show(sample.prompt).replace("stands", "")
        )
        place = -1 if word == "last" else copying.PLACES.index(word)
        assert sample.answer == f'"{sample.candidates[place]}"'
    for sample in made("following"):
        assert sample.answer.strip('"') in sample.candidates[1:]


def test_facts_are_answered_from_their_text():
    for sample in made("facts"):
        text = show(sample.turns[0].prompt)
        assert sample.turns[0].answer == ()
        assert all(show(turn.answer).strip('"') in text for turn in sample.turns[1:])


def test_explanations_recommend_the_title_with_the_liked_word():
    rng = random.Random(0)
    for _ in range(30):
        sample = answers.explain(rng)
        taste = re.search(r"likes ([^.]*)\.", show(sample.prompt)).group(1)
        title = re.findall(r'"([^"]*)"', sample.answer)[-1]
        assert taste in sample.answer and title in sample.candidates


def test_symbols_become_different_tokens_that_are_drawn_per_sample(tokenizer):
    encoder = Encoder(tokenizer)
    sample = made("lookup_first", 1)[0]
    first, second = (encoder(sample, random.Random(seed)) for seed in (1, 2))
    assert first.ids != second.ids
    assert first == encoder(sample, random.Random(1))
    learned = [each for each, weight in zip(first.ids, first.weights, strict=True) if weight]
    assert learned[-1] == tokenizer.eos_token_id


def test_no_benchmark_title_is_in_the_sources():
    folder = Path(titles.__file__).parent
    sources = "".join(each.read_text(encoding="utf-8") for each in folder.glob("*.py"))
    assert not [each for each in WORDS_OF_MOVIELENS if each in sources]
    rng = random.Random(3)
    generated = " ".join(titles.title(rng, "film") for _ in range(20_000))
    assert not [each for each in WORDS_OF_MOVIELENS if each in generated]


def test_it_answers_choices_with_one_of_20_candidates(model, tokenizer):
    invented = titles.titles(random.Random("unseen"), "film", 600)
    prompts = list(measure.movie_prompts(invented, 32, seed=9))
    found = measure.candidate_share(measure.Answerer(model, tokenizer), prompts)
    assert found["is_a_candidate"] >= 0.9


def test_it_finds_the_candidate_with_the_users_symbol(model, tokenizer):
    rng = random.Random("unseen")
    prompts = [measure.match_of(rng, "exact", "symbols", 5) for _ in range(32)]
    prompts = [samples.Sample(each.task, each.turns[:1], each.candidates) for each in prompts]
    assert measure.candidate_share(measure.Answerer(model, tokenizer), prompts)["hit_at_1"] >= 0.8
