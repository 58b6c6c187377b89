# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One self-contained page with the judgement of one or several policies, to be read in a minute."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from gr00t_training.judge.judging import BASE, Judgement
from gr00t_training.judge.queries import Demonstration
from gr00t_training.judge.verdicts import Finding
from gr00t_training.types import Verdict

HEADLINES = {
    Verdict.GO: "No test found a reason not to try it, slowly and with limits.",
    Verdict.LOOK: "Read these before it moves:",
    Verdict.NO_GO: "Do not let it move the robot:",
}
_ERRORS_TEXT = (
    '<p class="soft">Mean absolute error of a chunk, beside baselines. Relative errors are in '
    "standard deviations of the recorded actions.</p>"
)
LINE_COLORS = ("var(--own)", "var(--go)", "var(--nogo)", "var(--look)")
BASELINE_COLORS = {"hold still": "var(--hold)", "mean action": "var(--mean)", BASE: "var(--base)"}
CHART_WIDTH, CHART_HEIGHT, CHART_LEFT, CHART_BOTTOM = 440, 200, 46, 34


@dataclass(frozen=True)
class Section:
    """A further table of the page."""

    title: str
    text: str  # above the table
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def judgement_page(
    judgements: Sequence[Judgement],
    recording: Demonstration,
    subject: str,
    plots: Sequence[Path] = (),
    sections: Sequence[Section] = (),
) -> str:
    """Return the page.

    Args:
        judgements: of policies on the same recording.
        recording: that they were judged on.
        subject: one line that names the dataset.
        plots: PNG files of episodes, which become part of the page.
        sections: further tables.
    """
    style = resources.files("gr00t_training.judge").joinpath("page.css").read_text(encoding="utf-8")
    parts = [
        f"<h1>{_text(subject)}</h1>",
        f'<p class="soft">{_facts(recording)}</p>',
        f'<div class="banners">{"".join(_banner(judgement) for judgement in judgements)}</div>',
        "<h2>Tests</h2>",
        _tests(judgements),
        "<h2>Errors on recorded episodes</h2>",
        _ERRORS_TEXT,
        _error_table(judgements, recording),
        f'<div class="charts">{_horizon_chart(judgements, recording)}{_age_chart(judgements)}</div>',
        _task_table(judgements),
        *(_section(section) for section in sections),
    ]
    if plots:
        parts += ["<h2>Episodes</h2>", *(_picture(path) for path in plots)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Judgement of a policy</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _facts(recording: Demonstration) -> str:
    rows = sum(recording.length(episode) for episode in recording.episodes)
    count = len(recording.episodes)
    tasks = len(recording.tasks)
    return _text(
        f"{count} episode{'s' * (count != 1)}, {rows} rows at {recording.embodiment.fps:g} Hz, {tasks} "
        f"task{'s' * (tasks != 1)}; {recording.asked}"
    )


def _banner(judgement: Judgement) -> str:
    verdict = judgement.verdict
    named = [finding for finding in judgement.findings if finding.verdict is verdict and finding.meaning]
    items = "".join(f"<li>{_text(finding.meaning)}.</li>" for finding in named)
    points = f"<ul>{items}</ul>" if items and verdict is not Verdict.GO else ""
    answer = f"relative error {judgement.errors.relative:.3f}, an answer takes {1e3 * judgement.seconds:.0f} ms"
    return (
        f'<section class="banner {_tone(verdict)}"><strong>{_text(str(verdict).upper())}</strong>'
        f"<p>{_text(judgement.name)}</p><p>{_text(HEADLINES[verdict])}</p>{points}"
        f'<p class="soft">{_text(answer)}</p></section>'
    )


def _tests(judgements: Sequence[Judgement]) -> str:
    found = [{(f.group, f.name): f for f in judgement.findings} for judgement in judgements]
    keys = list(dict.fromkeys(key for findings in found for key in findings))
    head = "".join(f"<th>{_text(judgement.name)}</th>" for judgement in judgements)
    rows = []
    for key in keys:
        entries = [findings.get(key) for findings in found]
        first = next(entry for entry in entries if entry)
        cells = "".join(f"<td>{_result(entry)}</td>" for entry in entries)
        rows.append(
            f"<tr><td>{_text(key[0])}</td><td>{_text(key[1])}<small>{_text(first.threshold)}</small></td>{cells}</tr>"
        )
    return _table(f"<th>about</th><th>test</th>{head}", rows)


def _result(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    return f'<span class="badge {_tone(finding.verdict)}">{_text(str(finding.verdict))}</span> {_text(finding.shown)}'


def _error_table(judgements: Sequence[Judgement], recording: Demonstration) -> str:
    tables = {judgement.name: judgement.errors for judgement in judgements} | dict(judgements[0].baselines)
    head = "".join(f'<th class="number">{_text(name)}</th>' for name in tables)
    rows = []
    for place, channel in enumerate(recording.channels):
        cells = "".join(f'<td class="number">{table.mae[place]:.4g}</td>' for table in tables.values())
        rows.append(f"<tr><td>{_text(str(channel))}</td><td>{_text(channel.unit)}</td>{cells}</tr>")
    cells = "".join(f'<td class="number">{table.relative:.3f}</td>' for table in tables.values())
    rows.append(f"<tr><td>all, relative</td><td></td>{cells}</tr>")
    return _table(f"<th>channel</th><th>unit</th>{head}", rows)


def _task_table(judgements: Sequence[Judgement]) -> str:
    tables = {judgement.name: judgement.errors for judgement in judgements} | dict(judgements[0].baselines)
    head = "".join(f'<th class="number">{_text(name)}</th>' for name in tables)
    rows = [
        f"<tr><td>{_text(task)}</td>"
        + "".join(f'<td class="number">{table.tasks[task]:.3f}</td>' for table in tables.values())
        + "</tr>"
        for task in judgements[0].errors.tasks
    ]
    return "<h2>Tasks, relative error</h2>" + _table(f"<th>instruction</th>{head}", rows)


def _horizon_chart(judgements: Sequence[Judgement], recording: Demonstration) -> str:
    step_s = 1 / recording.embodiment.fps
    lines = [
        (judgement.name, LINE_COLORS[place % len(LINE_COLORS)], judgement.errors.horizon)
        for place, judgement in enumerate(judgements)
    ]
    lines += [(name, BASELINE_COLORS[name], table.horizon) for name, table in judgements[0].baselines.items()]
    times = np.arange(recording.embodiment.action_horizon) * step_s
    return _chart("Relative error along the chunk", "time in the chunk [s]", [(n, c, times, v) for n, c, v in lines])


def _age_chart(judgements: Sequence[Judgement]) -> str:
    lines = [
        (judgement.name, LINE_COLORS[place % len(LINE_COLORS)], np.array(list(ages)), np.array(list(ages.values())))
        for place, judgement in enumerate(judgements)
        if (ages := {0.0: 1.0, **judgement.ages}) and judgement.ages
    ]
    return _chart("Error of late answers, by that of new ones", "age of the observation [s]", lines) if lines else ""


def _chart(title: str, x_label: str, lines: Sequence[tuple[str, str, np.ndarray, np.ndarray]]) -> str:
    """Draw lines (name, color, x, y) from zero on."""
    right = max(float(x.max()) for _, _, x, _ in lines) or 1.0
    top = max(float(np.nanmax(y)) for _, _, _, y in lines) * 1.1 or 1.0
    width, height = CHART_WIDTH - CHART_LEFT - 10, CHART_HEIGHT - CHART_BOTTOM - 10

    def place(x: float, y: float) -> str:
        return f"{CHART_LEFT + x / right * width:.1f},{10 + height - y / top * height:.1f}"

    shapes = [f'<path class="axis" fill="none" d="M{place(0, top)} L{place(0, 0)} L{place(right, 0)}"/>']
    for share in (0.0, 0.5, 1.0):
        y = 10 + height - share / 1.1 * height
        shapes.append(f'<text x="{CHART_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * top / 1.1:.2g}</text>')
        x = CHART_LEFT + share * width
        shapes.append(f'<text x="{x:.1f}" y="{10 + height + 15}" text-anchor="middle">{share * right:.2g}</text>')
    for _, color, x, y in lines:
        points = " ".join(place(a, b) for a, b in zip(x, y, strict=True) if np.isfinite(b))
        shapes.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{points}"/>')
    shapes.append(f'<text x="{CHART_LEFT + width}" y="{CHART_HEIGHT - 4}" text-anchor="end">{_text(x_label)}</text>')
    legend = " ".join(f'<span style="color:{color}">&#9632;</span> {_text(name)}' for name, color, _, _ in lines)
    return (
        f'<figure style="margin:0"><figcaption>{_text(title)}<br><span class="soft">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{_text(title)}">'
        f"{''.join(shapes)}</svg></figure>"
    )


def _section(section: Section) -> str:
    """Return a table; columns behind the first are numbers if there are several."""
    kind = ' class="number"' if len(section.head) > 2 else ""

    def row(tag: str, cells: Sequence[str]) -> str:
        first, *others = map(_text, cells)
        return f"<{tag}>{first}</{tag}>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell in others)

    table = _table(row("th", section.head), [f"<tr>{row('td', cells)}</tr>" for cells in section.rows])
    return f'<h2>{_text(section.title)}</h2><p class="soft">{_text(section.text)}</p>{table}'


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img alt="{_text(path.stem)}" src="data:image/png;base64,{data}"></p>'


def _table(head: str, rows: Sequence[str]) -> str:
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _tone(verdict: Verdict) -> str:
    return str(verdict).replace(" ", "-")


def _text(text: str) -> str:
    return html.escape(text)


def plain(judgement: Judgement, recording: Demonstration) -> Mapping[str, object]:
    """Return a judgement as plain JSON values."""
    names = [str(channel) for channel in recording.channels]
    tables = {judgement.name: judgement.errors, **judgement.baselines}
    return {
        "name": judgement.name,
        "verdict": str(judgement.verdict),
        "findings": [
            {
                "about": finding.group,
                "test": finding.name,
                "verdict": str(finding.verdict),
                "value": finding.value,
                "shown": finding.shown,
                "meaning": finding.meaning,
                "threshold": finding.threshold,
            }
            for finding in judgement.findings
        ],
        "errors": {
            name: {
                "relative": table.relative,
                "mae": dict(zip(names, table.mae.tolist(), strict=True)),
                "mse": dict(zip(names, table.mse.tolist(), strict=True)),
                "horizon": [None if not np.isfinite(value) else float(value) for value in table.horizon],
                "tasks": dict(table.tasks),
            }
            for name, table in tables.items()
        },
        "error_ratio_by_age_s": {f"{age:g}": value for age, value in judgement.ages.items()},
        "seconds_per_answer": judgement.seconds,
    }
