"""`assay bench`: how fast a running service answers, and how that changes with the load. See `assay.bench`."""

from pathlib import Path
from typing import Annotated

import typer


def bench(
    target: Annotated[
        list[str] | None, typer.Option(help="Address of a replica; may be given again. Default: localhost:50051.")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Default: the first that judges such a task.")] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Closed loop: requests under way, e.g. 1,8,64. Default: 1,8, without --rate.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Open loop: requests a second at random moments, e.g. 10,50.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a request.")] = 8,
    images: Annotated[Path | None, typer.Option(help="Folder of image files, sent as they are.")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of images that are made, without --images.")] = "512x512",
    content: Annotated[str, typer.Option(help="Of images that are made: noise or solid.")] = "noise",
    encoding: Annotated[str, typer.Option(help="How their pixels travel: rgb, png, webp or jpeg.")] = "rgb",
    prompt: Annotated[str | None, typer.Option(help="The prompt the images were made from.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Object class to look for, e.g. apple.")] = None,
    count: Annotated[int | None, typer.Option(help="How many of them there should be.")] = None,
    color: Annotated[str | None, typer.Option(help="Which colour they should have.")] = None,
    relation: Annotated[
        tuple[str, str, str] | None,
        typer.Option(metavar="SUBJECT RELATION REFERENCE", help="How two objects should stand: cup 'left of' dog."),
    ] = None,
    question: Annotated[str | None, typer.Option(help="Asked in place of the scorer's own.")] = None,
    metadata: Annotated[Path | None, typer.Option(help="JSONL of GenEval metadata: a task a line, in turn.")] = None,
    window_s: Annotated[float, typer.Option(min=0.01, help="Seconds a window.")] = 5.0,
    max_windows: Annotated[int, typer.Option(min=1, help="Of a level that does not become stable.")] = 10,
    deadline_s: Annotated[float, typer.Option(min=0.001, help="Seconds a request may take.")] = 60.0,
    hedge_budget: Annotated[float, typer.Option(help="Second copies of late requests, as a share of all.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    token: Annotated[str | None, typer.Option(envvar="ASSAY_TOKEN", help="Bearer token.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM file of the authority; switches TLS on.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file: one's own certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file: the key that goes with it.")] = None,
    output: Annotated[list[Path] | None, typer.Option(help="Write NAME.csv or NAME.json; may be given again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a running service: latency, images a second, and where the time goes, at several loads.

    A level ends when throughput and 95th percentile of its last three windows lie within 10 % of their mean.
    Ctrl-C prints what was measured so far. Exit code: 1 if an image got no score, or nothing was answered at the end;
    130 after Ctrl-C.
    """
    from assay.bench.session import Options, run

    flags = dict(locals())
    raise typer.Exit(run(Options(**{name: value for name, value in flags.items() if name not in ("Options", "run")})))
