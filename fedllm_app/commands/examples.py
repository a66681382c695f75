"""The example calls that `--help` shows, a command each."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": ("fedllm run -c train.rounds=3", "fedllm run --help"),
    "run": (
        "fedllm run -c train.rounds=3 strategy.name=scaffold",
        "fedllm run -c fedit-finance -c cpu -c data.name=/data/fingpt-sentiment",
        "fedllm run . sites -c own.toml",
        "fedllm run --ray 10.0.0.1:6379 -c own.toml",
        "fedllm run --resume runs/20260101-120000-fedavg",
    ),
    "watch": ("fedllm watch 7416247408835186297 sites",),
    "stop": ("fedllm stop 7416247408835186297 sites",),
    "fetch": ("fedllm fetch 7416247408835186297 sites --out runs/from-the-server",),
    "runs": ("fedllm runs", "fedllm runs --prune --keep 5"),
    "report": ("fedllm report runs/federated runs/alone --out report.html",),
    "demo": ("fedllm demo", "fedllm demo -c run.directory=/runs/demo"),
    "compare": (
        "fedllm compare --strategies fedavg,scaffold,local --seeds 3",
        "fedllm compare own.toml --strategies fedavg --set train.local-steps=5,10 --seeds 1,5,9 --out grid",
    ),
    "plan": (
        "fedllm plan -c data.name=/data/tickets.csv clients.number=8",
        "fedllm plan -c data.name=/data/tickets.csv --measure",
    ),
    "partition": (
        "fedllm partition -c data.name=/data/tickets.csv data.partition=dirichlet data.partition-column=department",
    ),
    "chat": ("fedllm chat runs/my-run", 'fedllm chat runs/my-run --prompt "What is 7 plus 5?"'),
    "merge": ("fedllm merge runs/my-run --out my-model",),
    "export": ("fedllm export runs/my-run --out my-adapter",),
    "evaluate": ("fedllm evaluate runs/federated runs/alone --base --suite finance --data-dir /data/sets",),
    "federation": ("fedllm federation up --data berlin.csv --data madrid.jsonl",),
    "federation certificates": ("fedllm federation certificates /srv/fedllm --host fl.example.org",),
    "federation serve": ("fedllm federation serve /srv/fedllm --port 8000 --runs-from 10.1.0.0/16",),
    "federation connect": ("fedllm federation connect sites --superlink fl.example.org:8000 --ca ca.crt",),
    "federation up": ("fedllm federation up --data berlin.csv --data madrid.jsonl", "fedllm federation up --sites 2"),
    "federation status": ("fedllm federation status",),
    "federation down": ("fedllm federation down --name trial",),
    "site": ("fedllm site check /srv/site",),
    "site init": (
        "fedllm site init /srv/site --superlink fl.example.org:8000 --ca ca.crt --data notes.csv --name berlin",
    ),
    "site check": ("fedllm site check /srv/site", "fedllm site check /srv/site -c own.toml"),
    "site start": ("fedllm site start /srv/site",),
    "init": ("fedllm init my-project",),
}
"""By the words after `fedllm`. A test parses each line, and asks for one of every command."""
