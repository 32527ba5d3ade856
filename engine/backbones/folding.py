"""Fold batch norms into convolutions with a single rounding, for networks that run below float32 on a CPU.

torch's own folding takes weights that autocast has rounded, scales them and rounds them again, and biases too: bfloat16
features of photographs moved by 5.9 %, where eager ones move by 3.2 %. Scaling weights in float32 and rounding them
once makes that 3.7 %, and leaving biases in float32 3.1 % (``benchmarks/results/extract_cpu_202611.md``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.fx_passes import binary_folding
from torch._inductor.lowering import lowerings, to_dtype
from torch.fx import Graph, Node

# Shapes: C output channels of a convolution.

_aten, _convert = torch.ops.aten, torch.ops.prims.convert_element_type.default
_SCALES = (_aten.mul.Tensor, _aten.div.Tensor)
_SHIFTS = (_aten.add.Tensor, _aten.sub.Tensor)
_POINTWISE = torch.ops.mkldnn._convolution_pointwise


@contextmanager
def folding_once_rounded() -> Iterator[None]:
    """Within the context, let inductor fold by ``FoldOnceRounded`` instead of its own pass, and keep biases float32.

    oneDNN's convolutions take float32 biases beside bfloat16 or float16 images, and so does torch's operator for them;
    but inductor converts all inputs of an operator to one type, and so the images to float32. torch refuses a bias of
    another type only in a convolution to which a map is added in the same kernel: that bias is rounded.
    """
    alone: Any = lowerings[_POINTWISE.default]
    kernels = {_POINTWISE.default: alone.__wrapped__}  # the wrapped function is the lowering without the conversion
    for adding in (_POINTWISE.binary, torch.ops.mkldnn._convolution_pointwise_.binary):
        kernels[adding] = _rounding_bias(lowerings[adding])
    with (
        config.patch(joint_custom_post_pass=FoldOnceRounded()),
        patch.object(binary_folding, "mark_mixed_dtype_allowed_computation_ops", lambda graph_module: None),
        patch.dict(lowerings, kernels),
    ):
        yield


def _rounding_bias(lowering: Callable[..., Any]) -> Callable[..., Any]:
    def lower(images: Any, other: Any, weight: Any, bias: Any, *rest: Any) -> Any:
        return lowering(images, other, weight, None if bias is None else to_dtype(bias, images.get_dtype()), *rest)

    return lower


class FoldOnceRounded(CustomGraphPass):
    """A pass for inductor's ``joint_custom_post_pass``, which runs before weights are made constants of the graph.

    A convolution, then scales and shifts of each channel by constants, then a rounding to the convolution's dtype
    become one convolution. Batch norms in inference mode are such steps, whatever they are called in the network. Steps
    that are not rounded back, or whose results have other users, stay as they are: with torch 2.11, batch norms before
    SiLU.
    """

    def __call__(self, graph: Graph) -> None:
        """Edit ``graph`` in place; its one input that is not a weight is the uint8 images of ``Forward``."""
        of_images = _depending_on_images(graph)
        for convolution in graph.find_nodes(op="call_function", target=_aten.convolution.default):
            steps = _constant_steps(convolution, of_images)
            rounding = _only_user((convolution, *steps)[-1])
            dtype = convolution.meta["val"].dtype
            if steps and rounding is not None and rounding.target is _convert and rounding.args[1] == dtype:
                _fold(graph, convolution, steps, rounding)

    def uuid(self) -> Any:
        """Return a hash of this file, so that torch's cache gives no graphs compiled with another version of it."""
        return get_hash_for_files((__file__,))


def _depending_on_images(graph: Graph) -> set[Node]:
    """Return the nodes that depend on the images, and so are not constant once weights are."""
    found: set[Node] = set()
    for node in graph.nodes:
        is_input = node.op == "placeholder" and node.meta["val"].dtype == torch.uint8
        if is_input or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _constant_steps(convolution: Node, of_images: set[Node]) -> list[Node]:
    """Return in order the steps that scale or shift each channel of the output by a constant and have one user each."""
    _, weight, _, _, _, _, transposed, *_ = _arguments(convolution)
    if transposed or weight in of_images or len(weight.meta["val"].shape) != 4:
        return []  # inductor lays out no weights of one dimension, and without that a float32 bias is refused
    channels = convolution.meta["val"].shape[1]
    steps: list[Node] = []
    last = convolution
    while (user := _only_user(last)) is not None and user.target in _SCALES + _SHIFTS and not user.kwargs:
        source, constant = _arguments(user)
        if source is not last or not isinstance(constant, Node) or constant in of_images:
            break
        shape = constant.meta["val"].shape
        if len(shape) < 3 or shape[-3] != channels or prod(shape) != channels:
            break
        steps.append(user)
        last = user
    return steps


def _arguments(node: Node) -> tuple[Any, ...]:
    """Return a node's arguments, which are nodes and constants of many types."""
    return node.args


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _fold(graph: Graph, convolution: Node, steps: list[Node], rounding: Node) -> None:
    """Replace convolution, steps and rounding by one convolution with scaled weights (C, ...) and float32 bias (C)."""
    images, weight, bias, *geometry = _arguments(convolution)
    dtype, weight_shape = convolution.meta["val"].dtype, weight.meta["val"].shape
    call = graph.call_function
    with graph.inserting_before(rounding):
        weight_C, bias_C = _unrounded(weight), 0 if bias is None else _unrounded(bias)  # broadcast by the first step
        for step in steps:
            operation: Any = step.target
            constant_C = call(_aten.reshape.default, (step.args[1], (weight_shape[0],)))
            bias_C = call(operation, (bias_C, constant_C))
            if operation in _SCALES:
                broadcast = (weight_shape[0], *[1] * (len(weight_shape) - 1))
                weight_C = call(operation, (weight_C, call(_aten.reshape.default, (constant_C, broadcast))))
        rounded_C = call(_convert, (weight_C, dtype))
        rounded_C.meta.update(weight.meta)  # inductor reads the shapes of weights before it computes them again
        folded = call(_aten.convolution.default, (images, rounded_C, bias_C, *geometry))
        folded.meta.update(rounding.meta)
    rounding.replace_all_uses_with(folded)
    for node in (rounding, *reversed(steps), convolution):
        graph.erase_node(node)


def _unrounded(value: Node) -> Any:
    """Return the node that autocast rounded to ``value``, or ``value`` itself if it was not rounded."""
    return value.args[0] if value.target is _convert else value
