"""The checks of how a task judges answers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sabtune.tasks import Batch, Tally, Task
from sabtune.tasks.batch import one_hot
from sabtune.testing.result import expect
from sabtune.testing.task_case import Guess, TaskCase

ERRORS = 4.0
"""The number of standard errors by which a measured accuracy may differ from its expectation."""
SURE = 50.0
"""The logit of an answer that is certain."""
ANSWERS = 33
"""The number of constant answers that are tried if the answers are numbers."""


class AnswerChecks(TaskCase):
    """The checks of how a task judges answers."""

    def loss(self) -> None:
        """Check that the loss is finite and differentiable, and that `loss_everywhere` is right."""
        batch, name = self.batch, self.named("loss")
        logits = self.logits(batch).requires_grad_()
        loss = self.task.loss(logits, batch)
        size = tuple(loss.shape)
        expect(size == (), f"{name} has shape {size}: return one number, a mean")
        expect(
            bool(loss.isfinite()),
            f"{name} is {float(loss.detach()):g} for random logits: keep it finite",
        )
        expect(loss.requires_grad, f"{name} has no gradient: compute it from the logits in PyTorch")
        (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True)
        expect(gradient is not None, f"{name} does not depend on the logits")
        finite = bool(gradient.isfinite().all())
        expect(finite, f"{name} has a gradient that is not finite for random logits")
        by_step, scored = gradient.abs().sum(dim=2), batch.scored_by_row
        expect(
            bool(by_step[scored].any()),
            f"{name} has no gradient at the scored steps: use them",
        )
        if bool(batch.scored.all()):
            return
        elsewhere = bool(by_step[~scored].any())
        covers = "covers steps that are not scored" if elsewhere else "covers the scored steps only"
        expect(
            elsewhere == self.task.loss_everywhere,
            f"{name} {covers}, but {self.named('loss_everywhere')} is {self.task.loss_everywhere}: "
            "change one of them",
        )

    def tally(self) -> None:
        """Check that the tallies of the windows of a batch add up to the tally of the batch."""
        batch, name = self.batch, self.named("tally")
        logits = self.logits(batch)
        whole = self.task.tally(logits, batch)
        steps, scored = batch.targets.numel(), batch.answers
        steps = steps if self.task.loss_everywhere else scored
        counts = f"{name} counts {whole.steps} steps and {whole.scored} answers"
        expect(
            (whole.steps, whole.scored) == (steps, scored), f"{counts}, not {steps} and {scored}"
        )
        inside = isinstance(whole.correct, int) and 0 <= whole.correct <= scored
        expect(inside, f"{name} has {whole.correct} correct of {scored} answers")
        loss = float(self.task.loss(logits, batch)) * self.task.unit
        same = math.isclose(whole.mean_loss, loss, rel_tol=1e-4, abs_tol=1e-6)
        expect(same, f"{name} has loss {whole.mean_loss:g}, but `loss` times `unit` is {loss:g}")
        total, seen = Tally(), 0
        for window in batch.windows(max(1, batch.x.shape[1] // 3)):
            span = window.x.shape[1]
            total += self.task.tally(logits[:, seen : seen + span], window)
            seen += span
        expect(
            (total.steps, total.scored, total.correct) == (whole.steps, whole.scored, whole.correct)
            and math.isclose(total.loss, whole.loss, rel_tol=1e-3, abs_tol=1e-5),
            f"{name} is {total} over the windows of a batch, and {whole} over the batch: make the "
            "loss a mean over its steps",
        )

    def perfect_answers(self) -> str | None:
        """Check that correct answers have accuracy 1, score 1 and the lower loss."""
        batch = self.batch
        pairs = []  # of correct logits and others
        if self.classifies:
            sure = SURE * one_hot(batch.targets, self.task.outputs)
            pairs = [(sure, 0 * sure)]
        elif self.task.outputs == 1:  # a number, or the logit of a class
            targets = batch.targets.unsqueeze(-1).float()
            sure = SURE * (2 * targets - 1)
            pairs = [(targets, targets + 1), (sure, -sure)]
        if not pairs:
            return "the logits of a correct answer are not known"
        tallies = [[self.task.tally(logits, batch) for logits in pair] for pair in pairs]
        tally, other = max(tallies, key=lambda pair: pair[0].correct)
        right = f"{self.named('right')} gives correct answers accuracy {tally.accuracy:g}: give 1"
        expect(tally.correct == tally.scored, right)
        expect(
            tally.mean_loss < other.mean_loss,
            f"{self.named('loss')} is {tally.mean_loss:g} for correct answers, and "
            f"{other.mean_loss:g} for others: make it lower for correct ones",
        )
        score = self.task.normalized_score(tally.accuracy, tally.mean_loss)
        perfect = math.isclose(score, 1, abs_tol=1e-3)
        expect(
            perfect, f"{self.named('normalized_score')} is {score:g} for correct answers: give 1"
        )
        return None

    def chance(self) -> str | None:
        """Check that an answer that needs no memory has accuracy `chance` and score 0."""
        task, chance = self.task, self.task.chance
        undecided = task.tally(torch.zeros_like(self.logits(self.batch)), self.batch)
        score = task.normalized_score(chance, undecided.mean_loss)
        expect(
            math.isclose(score, 0, abs_tol=1e-3),
            f"{self.named('normalized_score')} is {score:g} for accuracy `chance` and the loss of "
            f"an undecided answer, {undecided.mean_loss:g}: give 0",
        )
        score = task.normalized_score(chance, math.inf)
        name = self.named("normalized_score")
        expect(score == 0, f"{name} is {score:g} for a loss of infinity: give 0 at least")
        remedy = f"set {self.named('chance')} to the accuracy of an answer that needs no memory"
        if self.guess is not None:
            accuracy, error, _ = self.accuracy(self.guess, self.rows)
            near = abs(accuracy - chance) <= ERRORS * error
            expect(
                near, f"`guess` has accuracy {accuracy:.4g}, and chance is {chance:.4g}: {remedy}"
            )
        first, others = self.rows[: max(1, len(self.rows) // 4)], self.rows[len(self.rows) // 4 :]
        constants = self.constants(first)
        if not constants:
            return None if self.guess else "no constant answer is known: give `guess` to check it"
        best = max(constants, key=lambda guess: self.accuracy(guess, first)[0])
        accuracy, error, loss = self.accuracy(best, others)
        least = max(0.0, accuracy - ERRORS * error)
        score = task.normalized_score(least, loss)
        if type(task).normalized_score is Task.normalized_score:
            expect(
                least <= chance,
                f"a constant answer has accuracy {accuracy:.4g}, above chance, {chance:.4g}: "
                f"{remedy}",
            )
        else:
            name = self.named("normalized_score")
            expect(score <= 1e-3, f"{name} is {score:g} for a constant answer: give 0")
        if self.guess is None and accuracy + ERRORS * error < chance:
            accuracy = max(self.accuracy(guess, self.rows)[0] for guess in constants)
            expect(
                accuracy + ERRORS * error >= chance,
                f"the best constant answer has accuracy {accuracy:.4g}, below chance, "
                f"{chance:.4g}: {remedy}, or give that answer as `guess`",
            )
        return None

    def constants(self, batches: list[Batch]) -> list[Guess]:
        """Return answers that are the same at all steps, with the best one for these batches.

        The list is empty if the logits of an answer are not known.
        """
        targets = torch.cat([batch.at_scored(batch.targets).flatten() for batch in batches])
        if self.classifies:
            best = torch.bincount(targets, minlength=self.task.outputs).argmax()
            answers = [SURE * one_hot(best, self.task.outputs)]
        elif self.task.outputs == 1:
            shares = torch.linspace(0, 1, ANSWERS)
            numbers = targets.float().quantile(shares, interpolation="nearest")
            numbers = torch.cat([numbers, torch.tensor([-SURE, SURE])])  # or logits of a class
            answers = list(numbers.unsqueeze(-1))
        else:
            answers = []
        return [_constant(answer) for answer in answers]

    def accuracy(self, guess: Guess, batches: list[Batch]) -> tuple[float, float, float]:
        """Return the accuracy of an answer, its standard error, and the loss."""
        hits, counts, tally = [], [], Tally()
        for batch in batches:
            logits = guess(self.task, batch)
            right = self.task.right(batch.at_scored(logits), batch.at_scored(batch.targets))
            row_of = batch.scored_by_row.nonzero()[:, 0]
            hits.append(torch.zeros(len(batch.x)).index_add(0, row_of, right.flatten().float()))
            counts.append(batch.scored_by_row.sum(dim=1))
            tally += self.task.tally(logits, batch)
        answers, chance = torch.cat(counts).float(), self.task.chance
        rows = (torch.cat(hits) - tally.accuracy * answers) / answers.mean()
        least = chance * (1 - chance) * len(rows) / tally.scored  # if answers are independent
        variance = max(float(rows.var(correction=0)), least)
        return tally.accuracy, math.sqrt(variance / len(rows)), tally.mean_loss

    def recalled_steps(self) -> None:
        """Check that `sources` names earlier steps for scored steps."""
        batch, name = self.batch, self.named("sources")
        for x, scored in zip(batch.x, batch.scored_by_row, strict=True):
            pairs = self.task.sources(x)
            if pairs is None:
                continue
            expect(
                pairs.dim() == 2 and pairs.shape[1] == 2 and not pairs.is_floating_point(),
                f"{name} has shape {tuple(pairs.shape)} and is {pairs.dtype}: give ints (N, 2)",
            )
            for step, source in pairs.tolist():
                where = f"{name} says that step {step} recalls step {source}"
                expect(1 <= source < step <= len(x), f"{where}: give 1 ≤ i < t ≤ {len(x)}")
                expect(bool(scored[step - 1]), f"{where}, but step {step} is not scored")


def _constant(answer: Tensor) -> Guess:
    """Return a guess that gives the logits `answer` (O,) at every step."""

    def guess(task: Task, batch: Batch) -> Tensor:
        return answer.expand(*batch.targets.shape, -1)

    return guess
