import msgspec
import pytest

from runtime.errors import ConfigError
from training.config import (
    PRESETS,
    ModelConfig,
    config_from_json,
    config_from_preset,
)


def changed(**parts):
    config = msgspec.to_builtins(config_from_preset("tiny"))
    for name, changes in parts.items():
        config[name] |= changes
    return msgspec.json.encode(config)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_its_own_json(name):
    config = config_from_preset(name)

    assert config_from_json(msgspec.json.encode(config)) == config


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"vae": {"latnet": 3}},
            "configuration: Object contains unknown field `latnet` - at `$.vae`",
        ),
        (
            {"vae": {"voxels": "many"}},
            "configuration: Expected `int`, got `str` - at `$.vae.voxels`",
        ),
        (
            {"vae": {"voxels": 0}},
            "vae.voxels: expected a whole number >= 1, found 0",
        ),
        (
            {"vae_training": {"token_dropout": 1e30}},
            "vae_training.token_dropout: expected a number <= 1.0, found 1e30",
        ),
        (
            {"vae": {"channel_multipliers": [1, -2]}},
            "vae.channel_multipliers[1]: expected a whole number >= 1, found -2",
        ),
        (
            {"flow_training": {"path": "cosine"}},
            "flow_training.path: expected one of cos, cos2, linear, found cosine",
        ),
        (
            {"flow_training": {"time_sampling": "it's late"}},
            "flow_training.time_sampling: expected one of arcsine, lognormal, uniform, "
            "found it's late",
        ),
        (
            {"vae_training": {"first_layer": "pca"}},
            "vae_training.first_layer: expected one of random, ridge, found pca",
        ),
        (
            {"vae": {"decoded_from": "z_t"}},
            "vae.decoded_from: expected one of z_n, found z_t",
        ),
        (
            {"vae": {"tokens": 9}},
            "vae.tokens: expected channels * channel_multipliers[-1] = 8, found 9",
        ),
        (
            {"vae": {"groups": 3}},
            "vae.groups: expected a divisor of channels 4, found 3",
        ),
        (
            {"vae": {"downsamplings": 3}},
            "vae.downsamplings: expected fewer than the 3 levels, found 3",
        ),
        (
            {"flow": {"heads": 5}},
            "flow.heads: expected a divisor of width 12, found 5",
        ),
        (
            {"vae": {"width": 9}, "flow": {"width": 9}},
            "flow.width: expected an even number, half sines and half cosines of a "
            "token's place, found 9",
        ),
        (
            {"flow": {"frequencies": 15}},
            "flow.frequencies: expected an even number, found 15",
        ),
        (
            {"flow": {"tokens": 4}},
            "flow: expected latents (8, 12) as in vae, found (4, 12)",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_clear_line(parts, message):
    with pytest.raises(ConfigError) as caught:
        config_from_json(changed(**parts))

    assert str(caught.value) == message


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        config_from_preset("huge")

    assert str(caught.value) == (
        "preset: expected one of paper-subj01, paper-subj02, paper-subj05, "
        "paper-subj07, demo, haxby, tiny, found huge"
    )


def test_the_fingerprint_follows_every_value():
    config = config_from_preset("tiny")
    other = config_from_preset("tiny", voxels=38)

    assert config.fingerprint() == config_from_preset("tiny").fingerprint()
    assert config.fingerprint() != other.fingerprint()
    assert other.vae.voxels == 38


def test_a_fingerprint_is_older_than_the_fields_that_change_nothing():
    config = config_from_preset("tiny")
    # Of the preset before there were token dropout and early stopping.
    assert config.fingerprint() == (
        "dffa97411de01084f0ddaeed47ca408f8e78bc9744ed8194e8a55b1798727800"
    )


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("vae_training", "token_dropout", 0.5),
        ("flow_training", "token_dropout", 0.5),
        ("vae_training", "patience", 7),
        ("flow_training", "patience", 7),
    ],
)
def test_a_fingerprint_knows_every_field(stage, name, value):
    config = config_from_preset("tiny")
    part = msgspec.structs.replace(getattr(config, stage), **{name: value})
    other = msgspec.structs.replace(config, **{stage: part})

    assert other.fingerprint() != config.fingerprint()
    assert config_from_json(msgspec.json.encode(other)) == other


def test_a_held_out_share_is_part_of_the_fingerprint():
    config = config_from_preset("tiny")

    other = msgspec.structs.replace(config, validation_share=0.25)

    assert other.fingerprint() != config.fingerprint()


def every_closed_field(kind, names=()):
    """Names that lead to every field of a struct that allows some words only."""
    for field in kind.fields:
        types = getattr(field.type, "types", (field.type,))
        for one in types:
            if isinstance(one, msgspec.inspect.LiteralType):
                yield (*names, field.encode_name), one.values
            elif isinstance(one, msgspec.inspect.StructType):
                yield from every_closed_field(one, (*names, field.encode_name))


def test_every_closed_vocabulary_is_named_where_it_is_missed():
    known = dict(every_closed_field(msgspec.inspect.type_info(ModelConfig)))

    assert len(known) >= 4
    for names, words in known.items():
        config = msgspec.to_builtins(config_from_preset("tiny"))
        config[names[0]][names[1]] = "nonsense"
        with pytest.raises(ConfigError) as caught:
            config_from_json(msgspec.json.encode(config))
        assert str(caught.value) == (
            f"{'.'.join(names)}: expected one of {', '.join(words)}, found nonsense"
        )
