"""What the tests of all released networks share: weights, public names, a look inside graphs."""

import numpy as np
import onnx
import onnxruntime
import torch


def randomised(network, std, seed=0):
    """The network with random weights everywhere, also where training begins with zeros."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return network.eval()


def same(loaded, expected):
    """Whether two networks have the same weights."""
    ours, theirs = loaded.state_dict(), expected.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def from_transformer(part):
    """From our names of VAR's transformer, which is called `part`, to the public ones."""
    block = rf"{part}\.blocks\.(\d)"
    return [
        (rf"{part}\.condition\.", "class_emb."),
        (rf"{part}\.scale\.", "lvl_embed."),
        (rf"{part}\.word\.", "word_embed."),
        (rf"{part}\.head\.", "head."),
        (rf"{block}\.attention\.sharpness", r"blocks.\1.attn.scale_mul_1H11"),
        (rf"{block}\.attention\.qkv\.", r"blocks.\1.attn.mat_qkv."),
        (rf"{block}\.attention\.query_bias", r"blocks.\1.attn.q_bias"),
        (rf"{block}\.attention\.value_bias", r"blocks.\1.attn.v_bias"),
        (rf"{block}\.attention\.project\.", r"blocks.\1.attn.proj."),
        (rf"{block}\.feed\.0\.", r"blocks.\1.ffn.fc1."),
        (rf"{block}\.feed\.2\.", r"blocks.\1.ffn.fc2."),
    ]


@torch.no_grad()
def check_each_alone(network, images):
    """An image of a batch gives exactly what it gives alone, and no other image."""
    both = network(images)
    assert both.shape == images.shape
    assert 0.0 <= both.min() <= both.max() <= 1.0
    assert torch.equal(both[1:], network(images[1:]))
    assert not torch.equal(both[0], both[1])


def probed(path, names, scales=(), given=None, read=()):
    """A copy of a graph that also returns named values from inside it.

    Args:
        path: the graph; its weights beside it serve the copy too.
        names: of the values.
        scales: sides of the token maps; each scale then builds on tokens that are fed as
            `tokens_K`, not on its own. Empty: on its own.
        given: shapes of named values that are then fed as `given_NAME`, not computed.
        read: sides of the token maps of the degraded image, then fed as `read_K`.
    """
    model = onnx.load(path, load_external_data=False)
    feed_tokens(model.graph, "ArgMax", "tokens", scales)
    feed_tokens(model.graph, "ArgMin", "read", read)
    for name, shape in (given or {}).items():
        feed(model.graph, name, f"given_{name}", (onnx.TensorProto.FLOAT, shape))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    copy = path.with_name("probed.onnx")
    onnx.save(model, copy)
    return copy


def feed_tokens(graph, operator, name, scales):
    """Let what builds on the tokens that an operator chooses, scale by scale, take fed ones."""
    for k, (chosen, side) in enumerate(zip(choices(graph, operator), scales, strict=bool(scales))):
        shape = (1, side * side)
        feed(graph, chosen, f"{name}_{k}", (onnx.TensorProto.INT64, shape), "Concat")


def choices(graph, operator):
    """Names of an operator's results: `ArgMax` is a writer's choice, `ArgMin` a quantizer's."""
    return [node.output[0] for node in graph.node if node.op_type == operator]


def feed(graph, name, source, kind, but=""):
    """Let the users of a value take it from a new input; those of an operator `but` keep it."""
    graph.input.append(onnx.helper.make_tensor_value_info(source, *kind))
    for node in graph.node:
        if node.op_type != but:
            node.input[:] = [source if used == name else used for used in node.input]


def named_values(path, names):
    """Those of the names that a graph's file knows."""
    graph = onnx.load(path, load_external_data=False).graph
    known = {output for node in graph.node for output in node.output}
    return [name for name in names if name in known]


def run_graph(path, names, feeds):
    """Named results of a graph, run as varfix does: its weights not copied for every use."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), feeds), strict=True))


def token_feeds(tokens, scales, name="tokens"):
    """What a probed graph is fed for the tokens (1, L) of all scales."""
    cuts = np.cumsum([side * side for side in scales])[:-1]
    parts = np.split(np.asarray(tokens, np.int64), cuts, axis=1)
    return {f"{name}_{k}": part for k, part in enumerate(parts)}


def print_figures(title, figures):
    """Print worst differences by stage, for closing notes: pytest -s."""
    lines = (f"  {name:32} {figure}" for name, figure in figures.items())
    print("\n" + "\n".join([title, *lines]))  # noqa: T201
