"""
Write text with a trained model: a checkpoint of ours or of nanoGPT's, or OpenAI's GPT-2.

    python sample.py --out_dir=out-quickstart
    python sample.py --out_dir=out-quickstart --start="def " --num_samples=3 --max_new_tokens=200
    python sample.py --init_from=gpt2-xl --start=FILE:prompt.txt
    python sample.py --out_dir=out-quickstart --interactive=True    # a chat: continues what one types
    python sample.py --out_dir=out-vision --image=page.png --start="Where is the button?"

The kind of the model decides what is printed: an unmasking model fills masks, a token classifier labels the prompt's
tokens, and a sequence scorer scores the prompt, or each line of a file.

    python sample.py --out_dir=out-unmasking --start="To be _____ or not" --mask_char=_
    python sample.py --out_dir=out-unmasking --judge=out-scorer --judge_candidates=4
    python sample.py --out_dir=out-classifier --start=FILE:page.txt --show_probabilities=True
    python sample.py --out_dir=out-scorer --start=FILE:lines.txt
"""

import sys
from collections.abc import Iterable, Sequence
from functools import partial

import core
from config.options import SampleOptions
from extras.sampling.mask_filling import fill_masks
from extras.sampling.step_display import StepDisplay
from extras.sampling.text_continuation import continue_text
from extras.sampling.text_scores import score_texts
from extras.sampling.token_labels import TokenLabels
from loss_modifiers import Judge
from wiring import sampling
from wiring.architecture import load_architecture
from wiring.chat import make_chat
from wiring.hugging_face.image_answers import answers_about_image


def main(argv: Sequence[str]) -> None:
    """Print samples, labels or scores, as the command line asks for them."""
    options = sampling.read_options(argv)
    if options.init_from == "scratch":
        raise core.ConfigError(
            "init_from=scratch is not trained: add --init_from=resume for the model in out_dir, or give the name of a "
            "GPT-2, or a folder with one"
        )
    prompt = sampling.read_text(options.start, "start")
    with core.Runtime(**options.pick("device", "dtype", "seed", "cpu_autocast")) as runtime:
        architecture = load_architecture()
        initializer = core.ModelInitializer(architecture.model_class, architecture.config_class, runtime.device)
        with sampling.redirect_header(options):
            trained = sampling.load_trained_model(options, initializer)
        if trained.kind != "language_model" and not options.changed("start"):
            prompt = ""  # only a language model needs the newline that is nanoGPT's default
        with runtime.autocast:
            if options.interactive:
                answer = partial(answers, trained, options=options, initializer=initializer)
                return make_chat(trained, prompt, options, initializer.device, answer).run()
            for text in answers(trained, prompt, options, initializer):
                print(text, flush=True)


def answers(
    trained: sampling.TrainedModel, prompt: str, options: SampleOptions, initializer: core.ModelInitializer
) -> Iterable[str]:
    """Return what the model answers to the prompt; the texts are computed one by one."""
    model, decode, device = trained.model, trained.tokenizer.decode, initializer.device
    if options.image is not None:
        return answers_about_image(trained, prompt, options, device)

    if trained.kind == "language_model":
        settings = options.pick("num_samples", "max_new_tokens", "temperature", "top_k")
        beginning = trained.encoder().to_continue(prompt, is_default=not options.changed("start"))
        return continue_text(model, trained.tokenizer, beginning, device, **settings)

    if trained.kind == "unmasking":
        vocabulary = sampling.find_vocabulary(trained)
        start = sampling.masked_prompt(prompt, trained, vocabulary.mask, options, device)
        judge = sampling.make_judge(options, initializer, vocabulary, len(start))
        sampler = sampling.make_sampler(model, vocabulary, options, device)
        display = StepDisplay(sys.stdout, decode, vocabulary.mask, blocks=options.show_steps)
        count, candidates = options.num_samples, options.judge_candidates
        return fill_masks(sampler, start, decode, display, num_samples=count, judge=judge, candidates=candidates)

    if trained.kind == "token_classifier":
        ids = sampling.prompt_ids(prompt, trained, device)
        labels = TokenLabels.predict(model, ids, decode)
        original = sampling.original_ids(trained, options)
        return [labels.report(original, options.show_probabilities, coloured=sys.stdout.isatty())]

    judge = Judge(model, model.config.cls_token_id, model.config.block_size)
    texts = sampling.texts_to_score(prompt, options.start, trained.prompt_name)
    return score_texts(judge, trained.encoder(), texts, device)


if __name__ == "__main__":
    with core.exit_on_error():
        main(sys.argv[1:])
