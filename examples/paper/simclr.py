r"""Pretext training for Table 4: SimCLR on a ResNet-18 for small images.

    python examples/paper/simclr.py --data FOLDER --dataset cifar10 --device cuda \
        --output simclr-cifar10.pt
    python examples/paper/reproduce.py table4 --data FOLDER --dataset cifar10 \
        --pretext simclr-{}.pt

Two augmented views of an image shall be more alike than those of two images (Chen et
al., 2020, eq. 1). The paper starts from the pretext weights that SCAN published, made
in the same way in 500 epochs. Writes the weights of the ResNet-18, without the
projection, after every epoch, and beside them what it takes to go on: the same command
again goes on from there.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from image_data import DATASETS, NORMALIZE, load
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from tqdm.auto import tqdm

from skcce.deep import natural, resnet18

WARM_UP = 10  # epochs, or a tenth of all
# What a run has to share with the one that it goes on from.
SETTINGS = ("dataset", "epochs", "batch_size", "lr", "temperature", "subset")


def contrastive_loss(first, second, temperature):
    """Return NT-Xent, where row i of `first` and row i of `second` are a pair."""
    views = normalize(torch.cat([first, second]))
    similarity = views @ views.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    n = len(first)
    partner = torch.arange(2 * n, device=views.device).roll(n)
    return cross_entropy(similarity, partner)


def learning_rate(progress, args):
    """Return a linear warm-up, then half a cosine."""
    warm_up = min(WARM_UP / args.epochs, 0.1)
    if progress < warm_up:
        return args.lr * progress / warm_up
    return args.lr * 0.5 * (1 + math.cos(math.pi * progress))


def write(path, state):
    """Write what torch.load reads; an interrupt leaves the old file."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def main(arguments=None):
    """Train and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the data")
    add("--dataset", choices=DATASETS[1:], required=True)
    add("--epochs", type=int, default=500)
    add("--batch-size", type=int, default=512)
    add("--lr", type=float, default=0.4)
    add("--temperature", type=float, default=0.1)
    add("--download", action="store_true", help="fetch data that are not there")
    add("--subset", type=int, help="train on this many images")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--output", type=Path, default=Path("simclr.pt"))
    args = parser.parse_args(arguments)
    if not args.output.parent.is_dir():
        parser.error(f"there is no folder {args.output.parent}")

    device = torch.device(args.device)
    torch.manual_seed(0)
    images, _ = load(
        args.data, args.dataset, subset=args.subset, download=args.download
    )
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in NORMALIZE[args.dataset]
    )
    network = resnet18(max_pool=args.dataset == "stl10")
    projection = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    module = nn.Sequential(network, projection).to(
        device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(
        module.parameters(), args.lr, momentum=0.9, weight_decay=1e-4
    )
    # Not where it is emulated: that is slower than float32.
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16)
    settings = {key: str(vars(args)[key]) for key in SETTINGS}
    checkpoint, first = args.output.with_suffix(".checkpoint"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["settings"] != settings:
            parser.error(
                f"{checkpoint} is of {state['settings']}; delete it to begin anew"
            )
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epochs"]
    for epoch in range(first, args.epochs):
        torch.manual_seed(epoch)  # whether it goes on or was never interrupted
        batches = torch.randperm(len(pixels)).split(args.batch_size)
        bar = tqdm(batches, desc=f"epoch {epoch + 1}/{args.epochs}")
        for i, rows in enumerate(bar):
            progress = (epoch + i / len(batches)) / args.epochs
            optimizer.param_groups[0]["lr"] = learning_rate(progress, args)
            batch = pixels[rows].to(device) / 255
            views = torch.cat([natural(batch), natural(batch)])
            views = ((views - mean) / std).contiguous(memory_format=torch.channels_last)
            with bfloat16:
                embedding = module(views).float()
            loss = contrastive_loss(*embedding.chunk(2), args.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
        write(args.output, network.state_dict())
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
        write(checkpoint, state | {"settings": settings, "epochs": epoch + 1})
    print(f"{args.output}: {args.epochs} epochs")


if __name__ == "__main__":
    main()
