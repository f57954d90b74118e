"""
Test the tests: break a copy of the code in many ways, and check that a test fails for each.

    python tests/mutations.py [WORD]      # all mutations, or those whose name contains WORD

Exit status 1 if a mutation survives, that is, if all its tests pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 120  # several times the time of any of the tests; a test that takes longer counts as failed
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "*.egg-info", "__pycache__", "out", "out-*", "*.bin", ".*_cache", "wandb"
)


@dataclass(frozen=True)
class Mutation:
    """A change of one file, and the tests of which at least one must then fail.

    path:     of the file
    old, new: text in the file, and its replacement
    tests:    paths of the tests
    """

    name: str
    path: str
    old: str
    new: str
    tests: str


STEP, TRAINER, MODEL = "core/training_step.py", "core/trainer.py", "model.py"
GROUP = "core/machine/process_group.py"
UNIT_STEP = "tests/core/test_training_step.py"
UNIT_TRAINER = "tests/core/test_trainer.py"
FILES, MANAGER, CHECKPOINTER = "core/files.py", "core/checkpoint/manager.py", "core/checkpoint/checkpointer.py"
UNIT_FILES = "tests/core/test_files.py tests/core/checkpoint/test_manager.py"
UNIT_MANAGER, UNIT_CHECKPOINTER = "tests/core/checkpoint/test_manager.py", "tests/core/checkpoint/test_checkpointer.py"
EXACT = " tests/test_exact_resume.py"

MUTATIONS = [
    # one update
    Mutation(
        "draw the next batch before the forward pass",
        STEP,
        "output = self.objective(self.model, self.batch, train=True)",
        'now, self.batch = self.batch, self.get_batch("train")\n'
        "                    self.get_batch = (lambda keep: lambda split: (setattr(self, 'get_batch', keep), self.batch)[1])"
        "(self.get_batch)\n"
        "                    output = self.objective(self.model, now, train=True)",
        UNIT_STEP,
    ),
    Mutation("drop the clip", STEP, "grad_norm = self.parallel.clip(self.model.parameters(), self.grad_clip)", "pass", UNIT_STEP),
    Mutation("sum micro-batches", STEP, "output.loss / self.gradient_accumulation_steps", "output.loss / 1", UNIT_STEP),
    Mutation("keep the gradients", STEP, "self.optimizer.zero_grad(set_to_none=True)", "pass", UNIT_STEP),
    Mutation("clip scaled gradients", STEP, "self.scaler.unscale_(self.optimizer)", "pass", UNIT_STEP),
    Mutation("return an attached loss", STEP, "losses.append(reported.detach())", "losses.append(reported)", UNIT_STEP),
    Mutation(
        "drop no_sync", "core/machine/parallel.py", "nullcontext() if last else model.no_sync()", "nullcontext()",
        "tests/core/machine/test_parallel.py",
    ),
    Mutation(
        "never synchronise the gradients", "core/machine/parallel.py", "nullcontext() if last else model.no_sync()",
        "model.no_sync()", "tests/core/machine/test_parallel.py",
    ),
    # the model
    Mutation("decay every tensor", MODEL, '"weight_decay": 0.0}', '"weight_decay": weight_decay}', "tests/test_oracle.py"),
    Mutation("do not scale the residual projections", MODEL, "std=INIT_STD / math.sqrt(2", "std=INIT_STD * math.sqrt(1", "tests/test_oracle.py"),
    Mutation("attend to later positions", MODEL, "is_causal=causal", "is_causal=False", "tests/test_model.py"),
    Mutation("untie the head", MODEL, 'self.transformer["wte"].weight = self.lm_head.weight', "pass", "tests/test_model.py"),
    Mutation("ignore top_k", MODEL, "if top_k:", "if False:", "tests/test_model.py tests/test_oracle.py"),
    Mutation("count ignored targets", MODEL, "targets.flatten(), ignore_index=-1", "targets.flatten().clamp(min=0)", "tests/test_model.py"),
    Mutation("approximate the GELU", MODEL, "else F.gelu", "else gelu_tanh", "tests/test_model.py"),
    Mutation("keep dropout in evaluation", MODEL, "self.dropout if self.training else 0.0", "self.dropout", "tests/test_model.py tests/core/test_evaluator.py"),
    Mutation("do not rotate the queries", MODEL, "q, k = rotate(q, rotary), rotate(k, rotary)", "k = rotate(k, rotary)", "tests/test_model.py"),
    # schedule, evaluation, loop
    Mutation("start the warm-up at zero", "core/scheduler.py", "(max(iter_num, 0) + 1)", "max(iter_num, 0)", "tests/core/test_scheduler.py"),
    Mutation("extrapolate the cosine", "core/scheduler.py", "if iter_num > self.lr_decay_iters:", "if False:", "tests/core/test_scheduler.py"),
    Mutation("end a warm-up without a decay at the minimum", "core/scheduler.py", "iter_num > end or iter_num == end > begin", "iter_num >= end", "tests/core/test_scheduler.py"),
    Mutation("forget a fork's values on a resume", "wiring/model.py", "{**architecture.arguments(options), **saved, **given}", "{**saved, **architecture.arguments(options)}", "tests/wiring/test_architecture.py"),
    Mutation("leave a fork's fields out of the config", "wiring/checkpoints.py", "**from_model, ", "", "tests/wiring/test_architecture.py"),
    Mutation("warn of a rate that a base file sets", "configurator.py", "if not NOT_THE_USERS.search(origin)", "if True", "tests/test_configurator.py"),
    Mutation("stay in evaluation mode", "core/evaluator.py", "self.model.train()", "pass", "tests/core/test_evaluator.py"),
    Mutation("evaluate val first", "core/losses.py", '("train", "val")', '("val", "train")', "tests/core/test_evaluator.py tests/core/test_trainer.py"),
    Mutation("average in double precision", "core/evaluator.py", "torch.zeros(self.eval_iters)", "torch.zeros(self.eval_iters, dtype=torch.float64)", "tests/core/test_evaluator.py"),
    Mutation("evaluate with modifiers", "core/evaluator.py", "train=False", "train=True", "tests/core/test_evaluator.py"),
    Mutation("evaluate before the first batch", TRAINER, "                    self.step.prefetch()\n", "", UNIT_TRAINER),
    Mutation("one update too few", TRAINER, "iter_num > self.max_iters", "iter_num >= self.max_iters", UNIT_TRAINER),
    Mutation("save at iteration 0", TRAINER, "if self.iter_num > 0:", "if True:", UNIT_TRAINER),
    Mutation("keep training after eval_only", TRAINER, "                        if self.eval_only:\n                            break\n", "", UNIT_TRAINER),
    Mutation("save only improvements", TRAINER, " or self.numbers.always_save_checkpoint:", ":", UNIT_TRAINER),
    Mutation("return the last loss as the best", "core/run_state.py", 'min(self.lowest_val_loss, self.losses["val"].item())', 'self.losses["val"].item()', "tests/core/test_run_state.py"),
    Mutation("print the loss divided by the micro-steps", "core/step_report.py", "result.loss.item() * result.micro_steps", "result.loss.item()", "tests/core/test_step_report.py"),
    Mutation("report the mfu without a warm-up", "core/step_report.py", "WARMUP_STEPS = 5", "WARMUP_STEPS = 0", "tests/core/test_step_report.py"),
    Mutation("ignore the decision of the monitor", TRAINER, "        self.react(self.monitor.decide_on(verdict))\n", "        pass\n", UNIT_TRAINER),
    Mutation("do not detect non-finite losses", "core/stability/detector.py", "return torch.isfinite(loss)", "return torch.ones_like(loss, dtype=torch.bool)", "tests/core/stability/test_detector.py"),
    Mutation("do not combine the flags of all ranks", "core/stability/flags.py", "self.any_rank(torch.stack([flag.int() for flag in flags]))", "torch.stack([flag.int() for flag in flags])", "tests/core/stability/test_flags.py"),
    Mutation("give all ranks the same seed", "core/runtime.py", "self.seed + self.rank", "self.seed", "tests/core/test_runtime.py"),
    Mutation("change the default seed", "config/options.py", "opt(1337,", "opt(1338,", "tests/test_oracle.py"),
    Mutation("give every process group the same name", GROUP, "name = uuid.uuid4().hex", 'name = "group"', "tests/core/machine/test_process_group.py"),
    Mutation("answer only the first call of each rank", GROUP, "if invited.get(rank) != call:", "if rank not in invited:", "tests/core/machine/test_process_group.py"),
    Mutation("keep the timeout of the start", GROUP, "                _set_pg_timeout(default_pg_timeout)\n", "                pass\n", "tests/core/machine/test_process_group.py"),
    Mutation("count restarts on this node alone", "wiring/start.py", "runtime.follows_earlier_group or restarted()", "restarted()", "tests/wiring/test_start.py"),
    # checkpoints
    Mutation("write in place", FILES, "write(part)\n", "write(path); part.touch()\n", UNIT_FILES),
    Mutation("do not flush the content", FILES, "for content in _contents(part):\n            _flush(content)", "pass", UNIT_FILES),
    Mutation("rename before the content is flushed", FILES, "        for content in _contents(part):\n            _flush(content)\n        os.replace(part, path)", "        os.replace(part, path)\n        for content in _contents(path):\n            _flush(content)", UNIT_FILES),
    Mutation("do not flush the folder", FILES, "    try:\n        _flush(folder)\n    except", "    try:\n        pass\n    except", UNIT_FILES),
    Mutation("write the manifest before the content", MANAGER, "            files.write_atomically(path, write)\n", "            write_manifest(manifest_path, {**notes, 'format': 1, 'sequence': sequence, 'file': path.name, 'sha256': '', 'bytes': 0})\n            files.write_atomically(path, write)\n", UNIT_MANAGER),
    Mutation("skip the verification of checksums", "core/checkpoint/manifest.py", 'if sha256(path) != manifest["sha256"]:', "if False:", "tests/core/checkpoint/test_manifest.py " + UNIT_MANAGER),
    Mutation("accept any file name in a manifest", "core/checkpoint/manifest.py", ' or not is_named', "", "tests/core/checkpoint/test_manifest.py " + UNIT_MANAGER),
    Mutation("accept a newer format", "core/checkpoint/manifest.py", 'manifest["format"] > FORMAT', "False", "tests/core/checkpoint/test_manifest.py " + UNIT_MANAGER),
    Mutation("reuse the number of a checkpoint", MANAGER, "1 + max(self._last, *before.names, 0)", "1 + max(*before.manifests, 0, 0)", UNIT_MANAGER),
    Mutation("remove the newest healthy checkpoint", "core/checkpoint/retention.py", ", *healthy[:1]]", "]", "tests/core/checkpoint/test_retention.py"),
    Mutation("keep the worst checkpoints instead of the best", "core/checkpoint/retention.py", 'manifest["val_loss"], manifest["sequence"]', '-manifest["val_loss"], manifest["sequence"]', "tests/core/checkpoint/test_retention.py"),
    Mutation("count damaged checkpoints as kept ones", MANAGER, 'if manifest["sequence"] in self._damaged:', "if False:", UNIT_MANAGER),
    Mutation("replace another program's ckpt.pt", MANAGER, "if os.path.lexists(self.path) and not", "if False and not", UNIT_MANAGER),
    Mutation("start a save while another is running", MANAGER, "            self.join()\n", "            pass\n", UNIT_MANAGER),
    Mutation("do not copy tensors for a background save", "core/checkpoint/snapshot.py", "taken[source._cdata].copy_(source)", "taken[source._cdata] = source", "tests/core/checkpoint/test_snapshot.py tests/core/checkpoint/test_checkpointer.py"),
    Mutation("load pickled objects", "core/checkpoint/format.py", "weights_only=True", "weights_only=False", "tests/core/checkpoint/test_format.py"),
    Mutation("skip the checksums in another program's file", "core/checkpoint/format.py", "if check and is_zip:", "if False:", "tests/core/checkpoint/test_format.py"),
    Mutation("keep the compiler's prefix", "core/checkpoint/format.py", 'WRAPPERS = ("_orig_mod", "module", ', 'WRAPPERS = ("module", ', "tests/core/checkpoint/test_format.py"),
    # exact resume
    Mutation("repeat the evaluation on resume", "core/run_state.py", "        self.evaluated_at = self.iter_num\n", "        pass\n", "tests/core/test_run_state.py tests/core/test_trainer.py" + EXACT),
    Mutation("do not restore the RNG state", CHECKPOINTER, 'self.runtime.set_rng_state(position["rng"])', "pass", UNIT_CHECKPOINTER + EXACT),
    Mutation("do not restore Python's RNG state", "core/runtime.py", 'random.setstate(state["python"])', "pass", "tests/core/test_runtime.py"),
    Mutation("do not restore the prefetched batch", CHECKPOINTER, 'self.step.batch = to_device(position["batch"], self.runtime.device)', "self.step.batch = None", UNIT_CHECKPOINTER + EXACT),
    Mutation("do not restore the position in the data", CHECKPOINTER, "part.load_state_dict(position[name])", "pass", UNIT_CHECKPOINTER),
    Mutation("do not compare the first batch", CHECKPOINTER, 'elif manifest and fingerprint(own["batch"]) !=', 'elif manifest and "" ==', UNIT_CHECKPOINTER),
    Mutation("do not truncate the metrics on resume", "core/logger.py", "self._open_file().truncate(offset)", "pass", "tests/core/test_logger.py" + EXACT),
    Mutation("do not restore the RNG state after an isolated evaluation", "core/runtime.py", "self.set_rng_state(outside)", "pass", "tests/core/test_runtime.py" + EXACT),
    Mutation("do not save at the end", TRAINER, "if self.step.updates > 0 and", "if False and", UNIT_TRAINER),
    Mutation("link every checkpoint", TRAINER, "def save_checkpoint(self, link: bool = False", "def save_checkpoint(self, link: bool = True", UNIT_TRAINER),
    # instability and recovery
    Mutation("make an unstable update", STEP, "elif skip is None or not skip.item():", "elif True:", UNIT_STEP),
    Mutation("make an unstable update when fused", STEP, "(skip != 0).float()", "(skip * 0).float()", UNIT_STEP),
    Mutation("save non-finite weights", TRAINER, "if not self.checkpointer.is_finite():\n            self.checkpointer.refuse()", "if False:\n            pass", UNIT_TRAINER),
    Mutation("train on the offending batch again", TRAINER, "self.step.skip_batches(self.monitor.batches_to_skip(self.iter_num))", "pass", UNIT_TRAINER),
    Mutation("recover without a limit", "core/stability/recovery.py", "len(self.history) < self.max_recoveries", "True", "tests/core/stability/test_recovery.py"),
    Mutation("do not broadcast the parameters", "core/machine/parallel.py", "            self.broadcast_parameters(model)\n", "            pass\n", UNIT_CHECKPOINTER),
    Mutation("treat another program's old file as the newest checkpoint", "core/checkpoint/search.py", "and not self._was_there()", "", "tests/core/checkpoint/test_search.py " + UNIT_MANAGER),
    Mutation("accept a damaged manifest", "core/checkpoint/manifest.py", 'manifest.get(SEAL) != _seal(manifest)', "False", "tests/core/checkpoint/test_manifest.py"),
    Mutation("do not restore the optimizer in a rollback", "core/machine/parallel.py", "        load_optimizer_state(optimizer, state.get(\"optimizer\"), names)\n", "        pass\n", UNIT_CHECKPOINTER),
    Mutation("roll back to an unhealthy checkpoint", "core/checkpoint/search.py", 'if healthy and not (manifest and manifest["healthy"]):', "if False:", UNIT_CHECKPOINTER),
    Mutation("include spikes in the statistics", "core/stability/detector.py", "torch.where(ordinary, values, median)", "torch.where(finite, values, median)", "tests/core/stability/test_detector.py"),
    Mutation("treat a single overflow as unstable", "core/stability/detector.py", "return self.overflows < LASTING_OVERFLOW", "return finite", "tests/core/stability/test_detector.py"),
    # preemption and the run folder
    Mutation("keep the RNG state of an interrupted evaluation", TRAINER, "                self.checkpointer.restore_position(self.step_start)\n", "                pass\n", UNIT_TRAINER),
    Mutation("ignore the signal of the job scheduler", "core/preemption.py", "self._signal, self._signal_at = signal.Signals(number).name, time.monotonic()", "pass", "tests/core/test_preemption.py"),
    Mutation("allow two runs in one folder", "core/checkpoint/run_folder.py", "if error.errno in (errno.EACCES, errno.EAGAIN):", "if False:", "tests/core/checkpoint/test_run_folder.py"),
    Mutation("move every previous run to the same folder", "core/checkpoint/run_folder.py", "1 + max(taken, default=0)", "1", "tests/core/checkpoint/test_run_folder.py"),
    Mutation("do not crop the moments", "core/optimizer.py", "value[: len(parameter)].clone() if", "value if", "tests/core/test_optimizer.py"),
    # errors in mid-run
    Mutation("take every update as complete", "core/checkpoint/update_watch.py", "return COMPLETE if changes == usual else PARTIAL if any(changes) else NOT_BEGUN", "return COMPLETE if any(changes) else NOT_BEGUN", "tests/core/checkpoint/test_update_watch.py"),
    Mutation("do not count the optimizer's state", "core/checkpoint/update_watch.py", "for state in states for value in state.values()", "for state in [] for value in state", "tests/core/checkpoint/test_update_watch.py"),
    Mutation("do not restore the detector after an error", CHECKPOINTER, '{**self._stateful_parts(), "detector": self.detector}', "self._stateful_parts()", "tests/core/checkpoint/test_emergency.py " + UNIT_CHECKPOINTER),
    Mutation("keep the connections of a failed rank", "core/machine/emergency_exchange.py", "                connection.shutdown(socket.SHUT_WR)\n", "                pass\n", "tests/core/machine/test_emergency_exchange.py"),
    Mutation("wait for a rank that was killed", "core/machine/emergency_exchange.py", "            if is_hopeless():", "            if False:", "tests/core/machine/test_emergency_exchange.py"),
    Mutation("save the present position of an interrupted rank", "core/checkpoint/emergency.py", "        kept[iter_num] = trainer.step_start\n", "        kept[iter_num] = checkpointer.position()\n", "tests/benchmark/test_soak_emergencies.py"),
    # options
    Mutation("accept a typo", "configurator.py", "self.errors.append(f\"{origin}: unknown option {key!r}{self.suggestion(key)}\")", "pass", "tests/test_configurator.py"),
    Mutation("accept a typo in a file", "configurator.py", "(option := self.misspelt(name))", "(option := None)", "tests/test_configurator.py"),
    Mutation("split at every =", "configurator.py", 'argument[2:].partition("=")', '(argument[2:].split("=") + ["", ""])[0], "=", argument.split("=")[-1]', "tests/test_configurator.py"),
    Mutation("stop at the first error", "configurator.py", "            argument = waiting.pop(0)\n", "            argument = waiting.pop(0)\n            self.check()\n", "tests/test_configurator.py"),
    Mutation("convert values of any type", "config/schema.py", "strict=True", "strict=False", "tests/config/test_schema.py tests/test_configurator.py"),
    Mutation("merge sections by bare name", "configurator.py", 'elif "." in key and key.partition(".")[2] in self.sections.get(key.partition(".")[0], ()):', 'elif "." in key:', "tests/test_configurator.py"),
    # data, logs
    Mutation("do not shift the targets", "data/token_bins.py", "both[:, 1:].contiguous()", "both[:, :-1].contiguous()", "tests/data/test_token_bins.py"),
    Mutation("never draw the last crop", "data/token_bins.py", "count - self.block_size, (", "count - self.block_size - 1, (", "tests/data/test_token_bins.py"),
    Mutation("accept unknown tokens", "data/token_file.py", "ids.max() < self.vocab_size:", "ids.max() <= self.vocab_size:", "tests/data/test_token_file.py"),
    Mutation("check the ids of batches against no vocabulary", "data/token_file.py", "        self._check_ids(ids, starts, sizes)\n", "", "tests/data/test_token_file.py"),
    Mutation("need 4 bytes for a vocabulary of 65,536", "data/token_file.py", "> TWO_BYTE_IDS else", ">= TWO_BYTE_IDS else", "tests/data/test_token_file.py"),
    Mutation("take rare ids for wide integers", "data/file_kinds.py", "NEEDED, DISTINCT = 64, 3", "NEEDED, DISTINCT = 1, 1", "tests/data/test_file_kinds.py"),
    Mutation("unpickle anything", "data/meta.py", "_PlainUnpickler(io.BytesIO(path.read_bytes())).load()", "pickle.loads(path.read_bytes())", "tests/data/test_meta.py"),
    Mutation("run the code of a tokenizer package", "data/meta.py", 'return type(name, (_Foreign,), {"name": f"{module}.{name}"})', "return super().find_class(module, name)", "tests/data/test_meta.py"),
    Mutation("take the shortest known token", "data/table_tokenizer.py", "sorted({len(spelled) for spelled in self._ids}, reverse=True)", "sorted({len(spelled) for spelled in self._ids})", "tests/data/test_table_tokenizer.py"),
    Mutation("keep byte-order marks", "data/corpus.py", 'return text.replace(BYTE_ORDER_MARK, "")', "return text", "tests/data/test_corpus.py"),
    Mutation("cut a text after an apostrophe", "data/preparation/text_pieces.py", 'r"!-&(-/', 'r"!-/', "tests/data/preparation/test_text_pieces.py"),
    Mutation("cut a text before any character", "data/preparation/text_pieces.py", r"(?<=\S)(?=[ \n\t])", r"(?=[ \n\t])", "tests/data/preparation/test_text_pieces.py"),
    Mutation("keep ids that the record does not count", "data/preparation/unfinished.py", "            file.truncate(tokens[split] * dtype.itemsize)\n", "", "tests/data/preparation/test_unfinished.py"),
    Mutation("remove the new meta.pkl after a kill", "data/preparation/unfinished.py", ' and not self.record["has_meta"]', " and not (self.path / META).exists()", "tests/data/preparation/test_unfinished.py"),
    Mutation("forget an own encoding in meta.pkl", "data/package_tokenizers.py", "if self._arguments is not None:", "if False:", "tests/data/preparation/test_byte_pairs.py"),
    Mutation("load any Hugging Face folder", "core/model_initializer.py", "            require_gpt2(Path(name))", "            pass", "tests/core/test_model_initializer.py"),
    Mutation("round the loss", "core/logger.py", "loss {loss:.4f}, time", "loss {loss:.3f}, time", "tests/core/test_logger.py"),
    Mutation("write NaN into JSON", "core/logger.py", "not math.isfinite(value)", "False", "tests/core/test_logger.py"),
    Mutation("let a logger stop the run", "core/logger.py", "        except Exception as error:\n            cause", "        except ZeroDivisionError as error:\n            cause", "tests/core/test_logger.py"),
    # objectives and their data
    Mutation("apply modifiers in evaluations", "extras/objectives/unmasking.py", "modifiers = self.modifiers if train else None", "modifiers = self.modifiers", "tests/extras/objectives/test_unmasking.py"),
    Mutation("measure positions that are not masked", "extras/objectives/unmasking.py", "mask = targets >= 0", "mask = targets >= -1", "tests/extras/objectives/test_unmasking.py"),
    Mutation("count the correct token among the wrong", "extras/objectives/unmasking.py", "at_mask.scatter(1, answers, 0.0).amax(dim=-1)", "at_mask.amax(dim=-1)", "tests/extras/objectives/test_unmasking.py"),
    Mutation("weight classes by their frequency", "extras/objectives/token_classification.py", "(1 / counts.clamp(min=1))[classes]", "counts.float()[classes]", "tests/extras/objectives/test_token_classification.py"),
    Mutation("swap precision and recall", "extras/objectives/token_classification.py", "precision, recall = hits / predictions.clamp(min=1), hits / targets.clamp(min=1)", "recall, precision = hits / predictions.clamp(min=1), hits / targets.clamp(min=1)", "tests/extras/objectives/test_token_classification.py"),
    Mutation("put CLS last", "extras/objectives/sequence_scoring.py", "torch.cat([first, filled], dim=1)", "torch.cat([filled, first], dim=1)", "tests/extras/objectives/test_sequence_scoring.py"),
    Mutation("advance a stage too late", "extras/stage_progress.py", "if self.stale_count < stage.val_loss_stale_count:", "if self.stale_count <= stage.val_loss_stale_count:", "tests/extras/test_stage_progress.py"),
    Mutation("do not save the stale count", "extras/stage_progress.py", '("current_stage", "stale_count", "best_val_loss", "judged_at")', '("current_stage", "best_val_loss", "judged_at")', "tests/extras/test_stage_progress.py"),
    Mutation("draw training and evaluation batches from the same seed", "data/numbered_batches.py", 'EVALUATION = 0, {"train": 1, "val": 2}', 'EVALUATION = 0, {"train": 0, "val": 2}', "tests/data/test_masked_text.py"),
    Mutation("give all ranks the same texts", "data/masked_text.py", "draw = generator(self.seed, self.rank, purpose, number)", "draw = generator(self.seed, 0, purpose, number)", "tests/data/test_masked_text.py"),
    Mutation("mask one position too many", "data/masking.py", "wanted = (target_masked_ratio * sizes.double()).ceil().long()", "wanted = (target_masked_ratio * sizes.double()).ceil().long() + 1", "tests/data/test_masking.py"),
    Mutation("corrupt with special tokens", "data/masking.py", "others = torch.randint(vocab_size, tokens.shape, generator=generator)\n    masked", "others = torch.randint(vocab_size + 1, tokens.shape, generator=generator)\n    masked", "tests/data/test_masking.py"),
    Mutation("end spans one position too early", "data/masking.py", "ends[:, 1::2] + 1, -ones", "ends[:, 1::2], -ones", "tests/data/test_masking.py"),
    Mutation("detach the variance factor", "loss_modifiers/sequence_variance.py", "at_least_float32(logits).view_as(targets).var(correction=0)", "at_least_float32(logits).detach().view_as(targets).var(correction=0)", "tests/loss_modifiers/test_sequence_variance.py"),
    Mutation("lower the rate a second time in the transfer schedule", "wiring/watchers.py", 'drop = 1.0 if options.lr_schedule == "transfer"', 'drop = 0.5 if options.lr_schedule == "transfer"', "tests/wiring/test_optimizer.py"),
    Mutation("do not save the objective's state", CHECKPOINTER, '{"data": self.data, "objective": self.step.objective}', '{"data": self.data}', UNIT_CHECKPOINTER),
    Mutation("ignore the factor of a parameter group", "core/scheduler.py", ' * group.get("lr_factor", 1.0)', "", "tests/core/test_scheduler.py"),
    Mutation("keep unfrozen parameter groups in a rollback", "core/optimizer.py", "del optimizer.param_groups[count:]", "pass", "tests/core/test_optimizer.py"),
    Mutation("release by the newest checkpoint", "extras/queue_release.py", "release(min(numbers))", "release(max(numbers))", "tests/extras/test_queue_release.py"),
    Mutation("give every rank all files of the queue", "data/streaming/consumer.py", "if file.number % self.world_size == self.rank]", "]", "tests/data/streaming/test_consumer.py"),
    Mutation("fill the least likely tokens first", "extras/sampling/unmask_sampler.py", "confidence.topk(count, largest=False)", "confidence.topk(count, largest=True)", "tests/extras/sampling/test_unmask_sampler.py"),
    Mutation("move files that the new run needs", "wiring/start.py", "move_previous_run([file for file in needed if file])", "move_previous_run()", "tests/wiring/test_start.py"),
    Mutation("do not record the files that a run needs", "wiring/objective.py", "        files.append(runtime.on_master(lambda: find_checkpoint(path)))\n        return files[-1]\n", "        return runtime.on_master(lambda: find_checkpoint(path))\n", "tests/wiring/test_objective.py"),
    Mutation("move the previous run before data is available", "wiring/start.py", "        preemption.run_before_training(data.wait)\n", "        pass\n", "tests/wiring/test_start.py"),
    Mutation("pass our padding id to a judge", "loss_modifiers/judge.py", "        tokens = with_ids(tokens, self.renamed)\n", "", "tests/loss_modifiers/test_judge.py"),
    Mutation("pass our mask id to a filler", "extras/filler.py", "self.model(with_ids(ids, self.renamed))", "self.model(ids)", "tests/extras/test_filler.py"),
    Mutation("do not save the special ids", "wiring/checkpoints.py", '{"meta": data.vocabulary.meta()} if data.vocabulary is not None else {}', "{}", "tests/wiring/test_objective.py"),
    Mutation("accept any special id for a queue", "wiring/data.py", "if given not in (None, meta.get(name)):", "if False:", "tests/wiring/test_objective.py"),
    Mutation("resume with another number of classes", "wiring/model.py", 'if wanted == "token_classification" and classes != options.num_token_classes:', "if False:", "tests/wiring/test_objective.py"),
    Mutation("accept weights that are NaN", "core/checkpoint/format.py", "    if check and (names := list(non_finite(", "    if False and (names := list(non_finite(", "tests/core/checkpoint/test_format.py"),
    Mutation("take the later one of an untied pair", "core/checkpoint/weights.py", "        require_equal(state, present)\n", "", "tests/core/checkpoint/test_weights.py"),
    Mutation("drop any mask", "core/checkpoint/weights.py", "    past = torch.ones(size, size, dtype=torch.bool).tril()\n", "    return True\n", "tests/core/checkpoint/test_weights.py"),
    Mutation("read an older nanoGPT's moments in the order of today", "core/optimizer.py", "for order in (own, *_older_orders(own, names))", "for order in (own,)", "tests/core/test_optimizer.py"),
    Mutation("refuse a ckpt.pt behind a symbolic link", "core/checkpoint/search.py", "        if not self._linked_file.is_file():\n            return self._reject_linked(self._why_no_file())\n", "        if self.linked_path.is_symlink():\n            return self._reject_linked(self._why_no_file())\n", "tests/core/checkpoint/test_search.py"),
    Mutation("load a legacy file as it is", "core/checkpoint/format.py", "    if _needs_conversion(checkpoint):\n", "    if False:\n", "tests/core/checkpoint/test_format.py"),
    # connections between the parts
    Mutation("ignore a callback's request to save", "core/checkpoint/checkpointer.py", "        self.schedule.request()\n", "        return\n", UNIT_TRAINER),
    Mutation("save twice for one request", "core/checkpoint/save_schedule.py", "        self.is_agreed = self._is_requested = False\n        self._since", "        self._since", "tests/core/checkpoint/test_save_schedule.py"),
    Mutation("ignore another rank's request to stop", "core/stop_request.py", '            self.reason = self._own or "another process asked for it"\n', "            pass\n", "tests/core/test_stop_request.py"),
    Mutation("swap two requests", "core/stability/monitor.py", "Requests(*agreed.flags[count:])", "Requests(*reversed(agreed.flags[count:]))", "tests/core/stability/test_monitor.py"),
    Mutation("keep a verdict after a rollback", "core/stability/monitor.py", "        self.flags.clear()\n", "        pass\n", "tests/core/stability/test_monitor.py"),
    Mutation("never check the weights", TRAINER, "if self.numbers.check_every_step and not", "if False and not", UNIT_TRAINER),
    Mutation("omit the data positions from manifests", "core/checkpoint/checkpointer.py", '_as_json(position.get("data")) for', "None for", UNIT_CHECKPOINTER),
    Mutation("read a checkpoint for its position", "extras/queue_release.py", "    if positions is None:", "    if True:", "tests/extras/test_queue_release.py"),
    Mutation("gather a checkpoint on rank 0 only", "core/checkpoint/checkpointer.py", "        checkpoint = self.writer.gather(checkpoint)\n", "        checkpoint = self.runtime.on_master(lambda: self.writer.gather(checkpoint))\n", UNIT_CHECKPOINTER),
    Mutation("number also the first callback of a class", "core/checkpoint/class_states.py", 'f"{name}-{count + 1}" if count else name', 'f"{name}-{count + 1}"', "tests/core/checkpoint/test_class_states.py"),
    Mutation("move a scalar to the device", "core/batch.py", "if is_on_cpu and batch.dim() == 0:", "if False:", "tests/core/test_batch.py"),
    Mutation("keep the likeliest token out of top_p", "extras/token_draw.py", "shares.cumsum(dim=-1) - shares", "shares.cumsum(dim=-1)", "tests/extras/test_token_draw.py"),
    Mutation("omit modifier metrics from wandb's evaluations", "core/logger.py", "self._send({**metrics, **self.modifiers})", "self._send(metrics)", "tests/core/test_logger.py"),
    Mutation("continue a prompt of ids beyond the model", "extras/sampling/prompt_encoder.py", "        self._require_in_vocabulary(max(ids))\n        return ids\n\n    def with_masks", "        return ids\n\n    def with_masks", "tests/extras/sampling/test_prompt_encoder.py"),
    Mutation("accept targets that no loss ignores", "core/batch.py", ">= -1 for tensor", ">= -9 for tensor", "tests/core/test_batch.py"),
    Mutation("skip any number of batches", "core/checkpoint/resume.py", "count <= MOST_SKIPPED", "count < math.inf", "tests/core/checkpoint/test_resume.py"),
    Mutation("use saved options next to a config file", "wiring/saved_options.py", 'any(not argument.startswith("--") for argument in argv)', "False", "tests/wiring/test_saved_options.py"),
    Mutation("take YAML in a Python file", "configurator.py", "if name in self.known()]:", "if not name]:", "tests/test_configurator.py"),
    Mutation("take an empty path for None", "configurator.py", "elif not text and self.would_be_none(key):", "elif False:", "tests/test_configurator.py"),
    Mutation("run a program as a config file", "configurator.py", "if python_files.is_program(path):", "if False:", "tests/test_configurator.py"),
    Mutation("take the saved options of the last name", "wiring/saved_options.py", "key=lambda path: sequence_of(path.name) or 0, ", "", "tests/wiring/test_saved_options.py"),
    Mutation("list options that a fork's model lacks", "config/schema.py", "if name not in cls.UNLISTED", "if True", "tests/wiring/test_architecture.py"),
    Mutation("advise converting a fork's checkpoint", "core/model_initializer.py", "if is_of_an_earlier_line(checkpoint):", "if True:", "tests/core/test_model_initializer.py"),
    Mutation("accept frozen models of any size", "extras/other_runs.py", "if config.vocab_size != vocabulary.size or config.block_size < block_size:", "if False:", "tests/extras/test_other_runs.py"),
    Mutation("count one token id too few in a queue", "data/streaming/consumer.py", 'self.meta.get("largest_token_id", self.vocab_size - 1) + 1', 'self.meta.get("largest_token_id", self.vocab_size - 1)', "tests/data/streaming/test_consumer.py"),
    Mutation("allow queue rows without a masked position", "data/streaming/masked.py", "            mask_one_at_least(inputs[batch], mask[batch], lengths[batch], self.text.mask_id, generator)\n", "            pass\n", "tests/data/streaming/test_masked.py"),
    # callbacks
    Mutation("average restored weights that are none", "extras/ema.py", "        self._weights = []\n", "", "tests/extras/test_ema.py"),
    Mutation("lose the update before an error in the average", "extras/ema.py", "if self.next_iter == trainer.iter_num - 1:", "if False:", "tests/extras/test_ema.py"),
    Mutation("save no average", "extras/ema.py", '{"averages": dict(self.averages),', '{"averages": {},', "tests/extras/test_ema.py"),
    Mutation("leave the averaged weights in the model", "extras/ema.py", "            _copy(own, weights)\n", "            pass\n", "tests/extras/test_ema.py"),
    Mutation("stop an interrupted run one update early", "extras/early_stopping.py", " and trainer.iter_num > self.judged_at", "", "tests/extras/test_early_stopping.py"),
    Mutation("train on after a stop", "extras/early_stopping.py", "            trainer.stop_request.agree(is_preempted=False, is_requested=True)", "            pass", "tests/extras/test_early_stopping.py"),
    Mutation("count not a number as an improvement", "extras/early_stopping.py", "if sign * value < best - self.min_delta:", "if not sign * value >= best - self.min_delta:", "tests/extras/test_early_stopping.py"),
    Mutation("end no epoch with the run", "extras/event_callbacks.py", "        self._end_epoch(trainer)\n        self._call(\"on_train_end\"", "        self._call(\"on_train_end\"", "tests/extras/test_event_callbacks.py"),
    Mutation("mean of the run instead of the epoch", "extras/epoch_meter.py", "            self.batches = 0\n", "            pass\n", "tests/extras/test_epoch_meter.py"),
    Mutation("read the loss at once", "extras/epoch_meter.py", 'and loss.device.type == "cpu"', "", "tests/extras/test_epoch_meter.py"),
    Mutation("attach imported classes", "wiring/callbacks_file.py", "kind.__module__ == module.__name__ and ", "", "tests/wiring/test_callbacks_file.py"),
    Mutation("leave the file's folder on the path", "wiring/user_file.py", "        sys.path.remove(str(folder))\n", "", "tests/wiring/test_callbacks_file.py"),
    Mutation("import our modules in place of the file's own", "wiring/user_file.py", "    if top not in own or ", "    if True or ", "tests/wiring/test_callbacks_file.py"),
    # Hugging Face
    Mutation("keep the dropout of a model of Hugging Face", "wiring/hugging_face/models.py", 'if "dropout" in options.model_fields_set else None', "if False else None", "tests/hf/wiring/hugging_face/test_models.py"),
    Mutation("count targets of -1", "extras/hugging_face/model.py", "ignore_index=-1", "ignore_index=-2", "tests/hf/extras/hugging_face/test_model.py"),
    Mutation("export other biases than zero", "extras/hugging_face/gpt2_export.py", "target.zero_()", "target.fill_(0.1)", "tests/hf/extras/hugging_face/test_gpt2_export.py"),
    Mutation("export the other activation", "extras/hugging_face/gpt2_export.py", '"gelu_tanh": "gelu_new"', '"gelu_tanh": "gelu"', "tests/hf/extras/hugging_face/test_gpt2_export.py"),
    Mutation("end the text at each line", "extras/hugging_face/tokenizer_export.py", 'return re.sub(r"(?<!\\\\)\\$", r"\\\\z", possessive)', "return possessive", "tests/hf/extras/hugging_face/test_tokenizer_export.py"),
    Mutation("load a model that lacks weights", "extras/hugging_face/loading.py", 'if lacking or report["mismatched_keys"]:', "if False:", "tests/hf/test_training.py"),
    Mutation("train in the dtype of the file", "extras/hugging_face/loading.py", '"dtype": torch.float32, "attn', '"dtype": "auto", "attn', "tests/hf/test_training.py"),
    Mutation("count only this rank's labels", "data/rows/batches.py", "share = torch.tensor(count / max(labelled, 1)", "share = torch.tensor(count / max(labelled // self.world_size, 1)", "tests/data/rows/test_batches.py"),
    Mutation("forget the drawn part of an update", "data/rows/batches.py", "        if self._given:\n            self._update = self._draw_update()\n", "", "tests/data/rows/test_batches.py"),
    Mutation("go on in the next piece of a stream", "data/rows/items.py", "            if self._at_start is not None:\n                self._stream.load_state_dict(self._at_start)\n", "", "tests/data/rows/test_items.py"),
    Mutation("keep one order for all epochs", "data/rows/items.py", "order = _order(len(self.lengths), self.seed, epoch)", "order = _order(len(self.lengths), self.seed, 0)", "tests/data/rows/test_items.py"),
    Mutation("learn the prompt", "data/rows/encoding.py", "labels = [*[IGNORED] * len(known), *answer", "labels = [*known, *answer", "tests/data/rows/test_encoding.py"),
    Mutation("do not learn the end", "data/rows/encoding.py", "labels = [*[IGNORED] * len(known), *answer, *self.marks.end]", "labels = [*[IGNORED] * len(known), *answer, *[IGNORED] * len(self.marks.end)]", "tests/data/rows/test_encoding.py"),
    Mutation("learn what the user says", "data/rows/chat.py", 'if message["role"] != "assistant" or', 'if message["role"] == "system" or', "tests/data/rows/test_chat.py"),
    Mutation("shift labels twice", "extras/objectives/labelled_tokens.py", "        if self.shifts:", "        if True:", "tests/extras/objectives/test_labelled_tokens.py"),
    Mutation("learn a row's first token from another row", "extras/hugging_face/collation.py", "torch.tensor([IGNORED, *row.labels[1:]])", "torch.tensor(row.labels)", "tests/hf/extras/hugging_face/test_collation.py"),
    Mutation("place labels of answers about images from the start", "data/rows/images.py", "[IGNORED] * (len(found) - len(labels)) + labels", "labels + [IGNORED] * (len(found) - len(labels))", "tests/hf/data/rows/test_images.py"),
    Mutation("leave stand-ins in the text", "data/rows/images.py", "        found[place] = number\n", "        pass\n", "tests/hf/data/rows/test_images.py"),
    Mutation("take any number of images", "data/rows/images.py", "if count and (self.most is None or count <= self.most):", "if True:", "tests/hf/data/rows/test_images.py"),
    Mutation("cut a row within its image", "data/rows/images.py", "return TOO_LONG if example.length > self.limit else example", "return example", "tests/hf/data/rows/test_images.py"),
    Mutation("count an image as one token", "data/rows/encoding.py", "(self.image_text.added if self.image_text else 0)", "0", "tests/hf/data/rows/test_images.py"),
    Mutation("take rows with other images for the same", "data/rows/encoding.py", "(self.image_text.digest,) if self.image_text else ()", "()", "tests/hf/data/rows/test_images.py"),
    Mutation("drop what a processor changes silently", "data/rows/images.py", "if len(places) != len(made.written) or found[-len(learnt) :] != learnt:", "if False:", "tests/hf/data/rows/test_images.py"),
    Mutation("leave the images of a Mllama out", "extras/hugging_face/processor.py", 'return not has_text_alone or getattr(config, "vision_config", None) is not None', "return not has_text_alone", "tests/hf/extras/hugging_face/test_processor.py"),
    Mutation("write a checkpoint's file outside", "extras/hugging_face/processor.py", "Path(folder, Path(name).name)", "Path(folder, name)", "tests/hf/extras/hugging_face/test_processor.py"),
    Mutation("forget the processor", "extras/hugging_face/tokenizer_import.py", "processor = processor_files(name)", "processor = None", "tests/hf/extras/hugging_face/test_processor.py"),
    Mutation("pad images' rows on the left", "extras/hugging_face/image_collation.py", 'tokenizer.padding_side = "right"', 'tokenizer.padding_side = "left"', "tests/hf/extras/hugging_face/test_image_collation.py"),
    Mutation("begin a text about an image twice", "extras/hugging_face/image_collation.py", "starts = not (start and texts[0].startswith(start))", "starts = True", "tests/hf/extras/hugging_face/test_image_collation.py"),
    Mutation("let processes wait for unused weights", "core/machine/parallel.py", '            settings["find_unused_parameters"] = True\n', "            pass\n", "tests/hf/test_images.py"),
    Mutation("refuse the image's mark", "extras/hugging_face/model.py", "max(self.config.vocab_size, transformer.get_input_embeddings().num_embeddings)", "self.config.vocab_size", "tests/hf/extras/hugging_face/test_model.py"),
    Mutation("make all batches of an evaluation at once", "data/rows/batches.py", "made = [self._collated(part, items) for part in parts] if self.collates_all else []", "made = [self._collated(part, items) for part in parts]", "tests/data/rows/test_batches.py"),
    Mutation("forget the user's chat template", "wiring/hugging_face/image_rows.py", "        tokenizer = tokenizer.with_processor(files_of(processor))\n", "", "tests/hf/wiring/hugging_face/test_image_rows.py"),
    Mutation("answer without the template", "wiring/hugging_face/image_answers.py", "IMAGES: 1}], True)", "IMAGES: 1}], False)", "tests/hf/wiring/hugging_face/test_image_answers.py"),
    # the installed program, and Python
    Mutation("take any word after a switch as its value", "coregpt/arguments.py", "if waiting[:1] in (['True'], ['False']) else True", "", "tests/coregpt/test_arguments.py"),
    Mutation("prefer a preset to the user's file", "coregpt/presets.py", "        return str(own)\n", "        pass\n", "tests/coregpt/test_presets.py"),
    Mutation("count the equals sign as a word", "coregpt/completion.py", "      (( position -= 1 ))", "      :", "tests/coregpt/test_completion.py"),
    Mutation("do not save a ready model at first", "coregpt/training.py", "[FirstSave()] if model is not None else []", "[]", "tests/coregpt/test_training.py"),
    Mutation("leave the random numbers of a load", "coregpt/trained.py", "    runtime.set_rng_state(before)\n", "", "tests/coregpt/test_trained.py"),
    Mutation("accept an optimizer of other parameters", "wiring/given_parts.py", "sum(id(parameter) not in ours for parameter in held)", "0", "tests/coregpt/test_training.py"),
    Mutation("resume a ready model with its own weights", "wiring/given_parts.py", '            load_exactly(given, checkpoint["model"])\n', "            pass\n", "tests/coregpt/test_training.py"),
    Mutation("keep the weights of a model that is given to load", "wiring/sampling.py", '            load_exactly(given, checkpoint["model"])\n', "", "tests/coregpt/test_trained.py"),
    Mutation("keep the data set of a changed text", "data/text_file.py", "is_same = meta.get(SHA256) == notes[SHA256]", "is_same = bool(meta)", "tests/data/test_text_file.py"),
    Mutation("import our config in place of the user's", "config/python_files.py", " and Path(here) != TREE else {}", " and False else {}", "tests/config/test_python_files.py"),
    Mutation("roll a resumed run back without its moments", CHECKPOINTER, "_copy_maker(self.raw_model), copy.deepcopy(optimizer)", "_copy_maker(self.raw_model), _without_moments(optimizer)", UNIT_CHECKPOINTER),
    Mutation("remove the user's handlers of the log", "core/runtime.py", " if isinstance(handler, _Notes)]", "]", "tests/core/test_runtime.py"),
    Mutation("leave plain imports in the wheel", "setup.py", "_change(lines, node.lineno, r\"from\\s+\"", "(lambda *a: None)(lines, node.lineno, r\"from\\s+\"", "tests/test_setup.py"),
    Mutation("keep a deleted module in the wheel", "setup.py", "        shutil.rmtree(package, ignore_errors=True)\n", "", "tests/test_setup.py"),
    Mutation("save the frozen base with the adapter", "extras/hugging_face/checkpoint_folder.py", "if name in kept}", "}", "tests/hf/extras/hugging_face/test_checkpoint_folder.py"),
    Mutation("write tied tensors under the wrong name", "extras/hugging_face/checkpoint_folder.py", "if not tied(", "if tied(", "tests/hf/extras/hugging_face/test_checkpoint_folder.py"),
    Mutation("restore an adapter without its base", "extras/hugging_face/checkpoint_folder.py", "{**self.model.state_dict(), **checkpoint", "{**checkpoint", "tests/hf/extras/hugging_face/test_checkpoint_folder.py"),
    Mutation("take an adapter with missing weights", "extras/hugging_face/lora.py", "for key in names if key not in weights", "for key in ()", "tests/hf/extras/hugging_face/test_lora.py"),
    Mutation("take an adapter with more weights", "extras/hugging_face/lora.py", "for key in weights if key not in names", "for key in ()", "tests/hf/extras/hugging_face/test_lora.py"),
    Mutation("take any base for an adapter", "extras/hugging_face/lora.py", "if marks[mark] != getattr(adapter, mark):", "if False:", "tests/hf/extras/hugging_face/test_lora.py"),
    Mutation("merge into a head that is tied", "extras/hugging_face/lora.py", "            if f\"{name}.base_layer.weight\" in tied:", "            if False:", "tests/hf/extras/hugging_face/test_lora.py"),
    Mutation("keep a merged head tied in the config", "extras/hugging_face/lora.py", "config.tie_word_embeddings = is_tied", "pass", "tests/hf/tools/test_merge_lora.py"),
    Mutation("train the whole model with an adapter", "extras/hugging_face/lora.py", "parameter.requires_grad_(\".lora_\" in name", "parameter.requires_grad_(True or \".lora_\" in name", "tests/hf/extras/hugging_face/test_lora.py"),
    Mutation("forget the embeddings of new tokens", "extras/hugging_face/lora.py", "also=[name for name in others if name in own]", "also=[]", "tests/hf/extras/hugging_face/test_lora.py"),
    Mutation("train a loaded base without dropout", "extras/hugging_face/loading.py", "made.train()", "made.eval()", "tests/hf/wiring/test_lora.py"),
    Mutation("wrap a new adapter over the resumed one", "wiring/lora.py", "if saved is None and options.use_lora:", "if options.use_lora:", "tests/hf/wiring/test_lora.py"),
    Mutation("copy the last checkpoint as the best", "extras/hugging_face/final_model.py", "if self.which == \"best\":", "if False:", "tests/hf/wiring/test_lora.py"),
    Mutation("compare a maximised metric as a minimised one", "core/checkpoint/retention.py", "sign = 1 if wanted", "sign = 1 if True or wanted", UNIT_MANAGER),
    Mutation("leave folders without a manifest", MANAGER, ", *search.loose]", "]", UNIT_MANAGER),
    Mutation("take over a folder of another trainer", "core/checkpoint/manifest.py", "    while os.path.lexists(path):", "    while False:", UNIT_MANAGER),
    Mutation("compare the quantised weights of a base in full precision", "extras/hugging_face/lora.py", "leaves_out=linear", "leaves_out=()", "tests/hf/wiring/test_lora.py"),
    Mutation("load the constants of quantised weights", "extras/hugging_face/loading.py", "for name in [name for name in state if name not in known]:", "for name in ():", "tests/hf/wiring/test_lora.py"),
    Mutation("go on with the next epoch in the last update", "data/rows/items.py", "if taken and (last", "if False and (last", "tests/wiring/sizes/test_run_length.py"),
    Mutation("learn the filling of the last update", "data/rows/batches.py", "torch.full_like(empty[\"labels\"], IGNORED)", "empty[\"labels\"]", "tests/wiring/sizes/test_run_length.py"),
    Mutation("end a job with the first of its epochs", "wiring/sizes/run_length.py", "while count(groups * epochs) <= first:", "while count(groups * epochs) < first:", "tests/hf/wiring/sizes/test_run_length.py"),
    Mutation("count the numbers of epochs as the user's", "wiring/sizes/run_length.py", "found}, options.model_fields_set)", "found}, {*options.model_fields_set, *found})", "tests/wiring/sizes/test_run_length.py tests/hf/wiring/sizes/test_run_length.py"),
    Mutation("count accumulation of other systems once", "config/foreign_systems.py", "return int(text) if text.isdecimal() else 1", "return 1", "tests/config/test_foreign_systems.py"),
    Mutation("count the defaults of another system as the user's", "configurator.py", 'path if is_written else f"{path} (defaults)"', "path", "tests/config/test_foreign_systems.py"),
    Mutation("take a mixture for the first system", "config/foreign_systems.py", "if len(found) == 1", "if found", "tests/config/test_foreign_systems.py"),
    Mutation("make max_steps + 1 updates", "config/foreign_systems.py", '"max_iters": int(value) - 1', '"max_iters": int(value)', "tests/config/test_foreign_systems.py"),
    Mutation("forget the layers of the other LoRA switch", "config/foreign_systems.py", "[*named, *(", "[*(", "tests/config/test_foreign_systems.py"),
    Mutation("skip the checksum of a training state", "extras/hugging_face/c_line_checkpoint.py", "if record := file.testzip():", "if record := None:", "tests/hf/extras/hugging_face/test_c_line_checkpoint.py"),
    Mutation("take a folder that was cut short", "extras/hugging_face/c_line_checkpoint.py", "(folder / STATE).is_file() and is_model", "is_model", "tests/hf/extras/hugging_face/test_c_line_checkpoint.py"),
    Mutation("prefer another trainer's folder to our own", "extras/hugging_face/c_line_checkpoint.py", "or any(out_dir.glob(\"ckpt*\"))", "", "tests/hf/extras/hugging_face/test_c_line_checkpoint.py"),
    Mutation("take the lowest step", "extras/hugging_face/c_line_checkpoint.py", "sorted(steps, reverse=True)", "sorted(steps)", "tests/hf/extras/hugging_face/test_c_line_checkpoint.py"),
    Mutation("number moments in the order of the model", "extras/hugging_face/c_line_checkpoint.py", "enumerate([*decayed, *others])", "enumerate(trained)", "tests/hf/extras/hugging_face/test_c_line_checkpoint.py"),
    Mutation("take moments of other shapes", "extras/hugging_face/c_line_checkpoint.py", "if state and state[\"exp_avg\"].shape", "if False and state[\"exp_avg\"].shape", "tests/hf/extras/hugging_face/test_c_line_checkpoint.py"),
    Mutation("leave a scale out of the bias", "tools/legacy_gpt2.py", "block[scale] * block[f\"{layer}.bias\"]", "block[f\"{layer}.bias\"]", "tests/tools/test_legacy_gpt2.py"),
    Mutation("leave the heads' order as it was", "tools/legacy_gpt2.py", "(heads, 3, -1)).transpose(0, 1)", "(heads, 3, -1))", "tests/tools/test_legacy_gpt2.py"),
    Mutation("convert an untied head", "tools/legacy_gpt2.py", "if not torch.equal(state[LM_HEAD], state[TOKENS]):", "if False:", "tests/tools/test_legacy_gpt2.py"),
    Mutation("compute the exact GELU in a converted model", "tools/legacy_gpt2.py", "\"activation\": \"gelu_tanh\"", "\"activation\": \"gelu\"", "tests/tools/test_legacy_gpt2.py"),
    Mutation("convert weights that are not known", "tools/legacy_gpt2.py", "for name in state if name not in known", "for name in ()", "tests/tools/test_legacy_gpt2.py"),
]  # fmt: skip


def survives(mutation: Mutation) -> bool:
    """Apply a mutation to a copy of the tree, run its tests, and return whether all of them pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        source = (copy / mutation.path).read_text()
        (copy / mutation.path).write_text(source.replace(mutation.old, mutation.new, 1))
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *mutation.tests.split()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in (0, 1):
            sys.exit(f"{mutation.name}: pytest could not run:\n{done.stdout.decode()[-2000:]}")
        return done.returncode == 0


def main() -> int:
    """Run the mutations of the command line, print the result of each, and return the exit status."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [mutation for mutation in MUTATIONS if wanted in mutation.name]
    if outdated := [mutation.name for mutation in chosen if mutation.old not in (ROOT / mutation.path).read_text()]:
        sys.exit(f"the code has changed: update {', '.join(outdated)}")
    survivors = 0
    for mutation in chosen:
        started = time.monotonic()
        is_alive = survives(mutation)
        survivors += is_alive
        verdict = "SURVIVES" if is_alive else "noticed"
        print(f"{verdict:8} {mutation.name} ({mutation.path}, {time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
