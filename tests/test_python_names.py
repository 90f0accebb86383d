"""Messages of the commands, as users of the Python API read them."""

import ast
import re

import pytest
from test_imports import MODULES

from cplmix_ray import CplMixVAEConfig
from cplmix_ray.config.python_names import in_python


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("use --likelihood gaussian.", "use likelihood='gaussian'."),
        ("lower --lr or --lam, set --clip 10, or", "lower lr= or lam=, set clip=10, or"),
        ("fewer than --n-categories 300; lower", "fewer than n_categories=300; lower"),
        ("write --model.hidden 8", "write hidden=8"),
        ("set --lr 1e-3 or --shared-parameters True", "set lr=1e-3 or shared_parameters=True"),
        ("--hvg needs scanpy", "hvg= needs scanpy"),
        ("choose it with --layer 'my counts', or", "choose it with layer='my counts', or"),
        ("read it whole with --backed no.", "read it whole with adata.to_memory()."),
        ("call adata.var_names_make_unique() and save.", "call adata.var_names_make_unique()."),
        ("of bounds; see --help for the settings.", "of bounds."),
        ("Ray failed (a.b); --resume continues from the newest checkpoint.", "Ray failed (a.b)."),
        ("Cannot read my--layer/x--hvg.txt.", "Cannot read my--layer/x--hvg.txt."),
    ],
)
def test_options_become_arguments(message, expected):
    assert in_python(message, CplMixVAEConfig) == expected
    assert in_python(expected, CplMixVAEConfig) == expected


def test_no_message_of_the_package_keeps_an_option():
    """Every string in the code that could be part of a message."""
    texts = {
        node.value
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    options = re.compile(r"(?<![\w-])--[a-z]")
    named = [text for text in texts if options.search(text) and len(text.split()) > 1]
    assert len(named) > 50
    assert not [text for text in named if options.search(in_python(text, CplMixVAEConfig))]
