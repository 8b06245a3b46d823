"""The checks, by themselves."""

import pytest
from transformers import BertConfig

from kdexp.errors import UserError
from kdexp.training import checks


def test_ids_inside_the_vocabulary_pass():
    config = BertConfig(vocab_size=100, type_vocab_size=2)
    checks.refuse_foreign_ids(config, largest_id=99, largest_token_type=1)
    with pytest.raises(UserError, match="token id 100"):
        checks.refuse_foreign_ids(config, largest_id=100, largest_token_type=0)
    with pytest.raises(UserError, match="token_type_id 2"):
        checks.refuse_foreign_ids(config, largest_id=5, largest_token_type=2)
