"""The tree of RFC 6962: its published vectors, and every proof of every small tree."""

from __future__ import annotations

import hashlib

import pytest

from writ.schemas.merkle import (
    EMPTY,
    Subtrees,
    Tree,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    leaf_hash,
    node_hash,
    peaks_of,
    record_leaf,
    root_at,
    root_from_inclusion,
    root_of,
)

# The test data of Certificate Transparency's reference implementation: leaves, and the root behind each.
CONTENTS = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
PAIR_2 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
RIGHT_4 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
PAIR_6 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
PAIR_4 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"


def _kept(leaves: list[bytes]) -> tuple[Tree, Subtrees]:
    tree, nodes = Tree(), dict[tuple[int, int], bytes]()
    for index, leaf in enumerate(leaves):
        for level, node in enumerate(tree.add(leaf)):
            nodes[level, index >> level] = node
    return tree, lambda level, place: nodes[level, place]


def _published() -> Subtrees:
    return _kept([leaf_hash(content) for content in CONTENTS])[1]


def test_the_roots_are_the_published_ones() -> None:
    assert Tree().root == EMPTY == hashlib.sha256(b"").digest()
    tree = Tree()
    for content, root in zip(CONTENTS, ROOTS, strict=True):
        tree.add(leaf_hash(content))
        assert tree.root.hex() == root


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [LEAF_1, PAIR_2, RIGHT_4]),
        (5, 8, [LEAF_4, PAIR_6, ROOTS[3]]),
        (2, 3, [ROOTS[1]]),
        (1, 5, [ROOTS[0], PAIR_2, LEAF_4]),
    ],
)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int, path: list[str]) -> None:
    assert [step.hex() for step in inclusion_proof(index, size, _published())] == path


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (1, 1, []),
        (1, 8, [LEAF_1, PAIR_2, RIGHT_4]),
        (6, 8, [PAIR_4, PAIR_6, ROOTS[3]]),
        (2, 5, [PAIR_2, LEAF_4]),
    ],
)
def test_consistency_proofs_are_the_published_ones(old: int, new: int, path: list[str]) -> None:
    assert [step.hex() for step in consistency_proof(old, new, _published())] == path


def _by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(_by_definition(leaves[:half]), _by_definition(leaves[half:]))


SIZE = 70


def test_every_proof_of_every_small_tree_holds_and_no_other_root_does() -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(SIZE)]
    subtrees = _kept(leaves)[1]
    roots = [root_at(size, subtrees) for size in range(SIZE + 1)]
    for size in range(SIZE + 1):
        assert roots[size] == _by_definition(leaves[:size])
        for index in range(size):
            path = inclusion_proof(index, size, subtrees)
            assert root_from_inclusion(index, size, leaves[index], path) == roots[size]
            assert root_from_inclusion(index, size, leaves[index - 1], path) != roots[size] or size == 1
            assert root_from_inclusion(index, size, leaves[index], [*path, EMPTY]) is None
            if path:
                assert root_from_inclusion(index, size, leaves[index], path[:-1]) != roots[size]
        for old in range(1, size + 1):
            path = consistency_proof(old, size, subtrees)
            assert is_consistent(old, size, roots[old], roots[size], path)
            assert not is_consistent(old, size, roots[old - 1], roots[size], path)
            assert not is_consistent(old, size, roots[old], EMPTY, path)
            assert not is_consistent(old, size, roots[old], roots[size], [*path, EMPTY])
            assert not path or not is_consistent(old, size, roots[old], roots[size], path[:-1])


def test_a_tree_goes_on_from_its_peaks() -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(SIZE)]
    whole, subtrees = _kept(leaves)
    for size in range(SIZE):
        tree = Tree(size, [subtrees(*peak) for peak in peaks_of(size)])
        for leaf in leaves[size:]:
            tree.add(leaf)
        assert (tree.size, tree.root) == (SIZE, whole.root)


def test_many_leaves_at_once_make_the_same_tree() -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(SIZE)]
    roots = [Tree().root]
    one_by_one = Tree()
    for leaf in leaves:
        one_by_one.add(leaf)
        roots.append(one_by_one.root)
    for first in range(SIZE):
        for second in range(first, SIZE + 1):
            tree = Tree()
            tree.extend(leaves[:first])
            tree.extend(leaves[first:second])
            assert (tree.size, tree.root) == (second, roots[second])


def test_what_is_in_no_tree_has_no_proof() -> None:
    subtrees = _published()
    with pytest.raises(ValueError, match="leaf 8 is not in a tree of 8"):
        inclusion_proof(8, 8, subtrees)
    with pytest.raises(ValueError, match="has not grown from one of 9"):
        consistency_proof(9, 8, subtrees)
    assert root_from_inclusion(8, 8, EMPTY, []) is None
    assert not is_consistent(0, 8, EMPTY, EMPTY, [])
    assert root_of([]) == EMPTY


def test_a_leaf_is_of_all_that_is_stored() -> None:
    digest = hashlib.sha256(b"{}").hexdigest()
    leaf = record_leaf(7, "writ.log.0.default.job.q~a", digest)
    assert leaf == leaf_hash(f"7 writ.log.0.default.job.q~a {digest}".encode())
    assert leaf != record_leaf(8, "writ.log.0.default.job.q~a", digest)
    assert leaf != record_leaf(7, "writ.log.0.default.job.q~b", digest)
