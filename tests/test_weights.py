"""Weights: files that are damaged, foreign or of another model, and the two bridges.

One leads from torchvision, the other from the authors."""

import json
import shutil
from dataclasses import asdict, replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock
from urllib.error import URLError
from zipfile import ZipFile

import pytest
import torch
from dacite import DaciteError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops.misc import FrozenBatchNorm2d

from eosvos import resnet, weights
from eosvos.rpn import RPNConfig
from eosvos.small import PAPER, SMALL, ModelConfig, build
from eosvos.weights import (
    _import_authors,
    _modern_names,
    _read_config,
    convert_authors,
    convert_coco,
    load_coco,
    load_model,
    load_rates,
    read_foreign,
    read_weights,
    save_weights,
)

TINY = replace(SMALL, channels=16, roi=replace(SMALL.roi, box_width=8, mask_width=8))
OLD = {'rpn.head.conv.0.0': 'rpn.head.conv'}
for _i in range(4):
    for _blocks in ('inner_blocks', 'layer_blocks'):
        OLD[f'backbone.fpn.{_blocks}.{_i}.0'] = f'backbone.fpn.{_blocks}.{_i}'
    OLD[f'roi_heads.mask_head.{_i}.0'] = f'roi_heads.mask_head.mask_fcn{_i + 1}'


def old_names(state):
    "Today's names to those of torchvision 0.4, in which the published files are."
    parts = {name: name.rpartition('.') for name in state}
    return {
        f'{OLD.get(module, module)}.{leaf}': state[name]
        for name, (module, _, leaf) in parts.items()
    }


@pytest.fixture
def saved(tmp_path):
    "A small file of weights."
    save_weights(build(TINY), TINY, tmp_path / 'model.safetensors')
    return tmp_path / 'model.safetensors'


def rewrite(file, change=dict, about=None):
    "The same file with other tensors or metadata."
    tensors, old = read_weights(file)
    save_file(change(tensors), file, metadata=dict(eosvos=json.dumps(about or old)))


# ---- the configuration

numbers = st.floats(0, 1, allow_nan=False)
sizes = st.lists(
    st.lists(st.integers(1, 512), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5
).map(tuple)
rpns = st.builds(
    RPNConfig,
    sizes=sizes,
    samples=st.integers(1, 512),
    beta=numbers,
)


@given(
    st.builds(
        ModelConfig,
        body=st.sampled_from(['resnet50', 'lite0', 'lite0-group']),
        classes=st.integers(2, 91),
        rpn=rpns,
    )
)
@settings(max_examples=50, deadline=None)
def test_a_configuration_survives_json(config):
    back = _read_config(json.loads(json.dumps(asdict(config))))
    assert back == config and hash(back) == hash(config)


@pytest.mark.parametrize(
    'values, message',
    [
        (dict(bodi='lite0'), 'can not match "bodi" to any data class field'),
        (dict(rpn=dict(size=3)), 'can not match "size" to any data class field'),
        (dict(rpn=[[32]]), r'"rpn" - should be "RPNConfig" instead of value "\[\[32\]\]"'),
        (dict(classes='two'), '"classes" - should be "int" instead of value "two"'),
    ],
)
def test_an_unknown_field_is_refused(values, message):
    with pytest.raises(DaciteError, match=message):
        _read_config(values)


# ---- our own files


@pytest.mark.parametrize('config', [TINY, ModelConfig(classes=3)], ids=['small', 'paper'])
def test_round_trip(tmp_path, config):
    model, file = build(config), tmp_path / 'model.safetensors'
    for half in (False, True):
        save_weights(model, config, file, half=half)
        state = torch.get_rng_state()
        back, again = load_model(file)
        assert torch.equal(torch.get_rng_state(), state), 'reading draws no random numbers'
        assert again == config
        wanted = {
            name: o.half().float() if half else o for name, o in model.named_parameters()
        } | dict(model.named_buffers())
        assert wanted.keys() == back.state_dict().keys()
        for name, o in back.state_dict().items():
            assert o.dtype == torch.float32 and torch.equal(o, wanted[name]), name
        assert [o.requires_grad for o in back.parameters()] == [
            o.requires_grad for o in model.parameters()
        ]


def test_a_model_that_was_read_runs(saved):
    model, config = load_model(saved)
    assert model.image_config == config.image
    with torch.no_grad():
        found = model([torch.rand(3, 40, 60)])
    assert found[0]['masks'].shape[1:] == (40, 60)


def test_a_file_from_before_a_field_loads_with_its_default(saved):
    about = read_weights(saved)[1]
    del about['config']['classes']
    rewrite(saved, about=about)
    assert load_model(saved)[1] == TINY and TINY.classes == 2


def test_rates_are_kept_and_do_not_disturb(tmp_path):
    model, file = build(TINY), tmp_path / 'model.safetensors'
    rates = {name: torch.rand(len(o), *[1] * (o.dim() - 1)) for name, o in model.named_parameters()}
    save_weights(model, TINY, file, rates=rates)
    tensors, _ = read_weights(file)
    for name, rate in rates.items():
        assert torch.equal(tensors[f'rates.{name}'], rate)  # not halved
    load_model(file)
    assert load_rates(file).keys() == rates.keys()
    with pytest.raises(ValueError, match='expected finite numbers.*rates.b'):
        save_weights(model, TINY, file, rates=dict(b=torch.tensor(torch.nan)))


@pytest.mark.parametrize('keep', [0, 4, 8, 50, 0.5, -1])
def test_a_truncated_file_is_refused(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r'model\.safetensors: cannot [^\n]*header[^\n]*$'):
        load_model(saved)


def test_a_file_that_is_too_long_is_refused(saved):
    with saved.open('ab') as file:
        file.write(b'?')
    with pytest.raises(ValueError, match=r'model\.safetensors: cannot .* not fully covered$'):
        read_weights(saved)


@pytest.mark.parametrize(
    'header',
    [
        '[]',
        '{"a": [1]}',
        '{"a": 1}',
        '{"a": {"data_offsets": []}}',
        '{"__metadata__": {"eosvos": 1}}',
        '<html>404</html>',
    ],
)
def test_another_kind_of_file_is_refused(tmp_path, header):
    (tmp_path / 'other').write_bytes(len(header).to_bytes(8, 'little') + header.encode())
    with pytest.raises(ValueError, match='other: cannot be read .* invalid JSON in header'):
        read_weights(tmp_path / 'other')
    (tmp_path / 'other').write_bytes(b'P6 is a picture, no weights')
    with pytest.raises(ValueError, match='other: cannot be read as safetensors'):
        read_weights(tmp_path / 'other')


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n'
ZIP = BytesIO()
with ZipFile(ZIP, 'w') as _archive:
    _archive.writestr('notes.txt', 'no weights')


@pytest.mark.parametrize(
    'content, reason',
    [
        (POINTER, 'got a pointer of Git LFS; use `git lfs pull`$'),
        (b'<!DOCTYPE html>\n<html>404</html>', 'got a web page; download the file itself$'),
        (b'\n  <html lang="en">', 'got a web page'),
        (b'<?xml version="1.0"?>', 'got a web page'),
        (ZIP.getvalue(), 'got a (zip or pickle|pickle or zip)'),
        (b'', 'header too small'),
        (b'hello there', 'header'),
    ],
)
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_what_stands_in_place_of_weights_is_told(tmp_path, content, reason, suffix):
    (tmp_path / f'x.{suffix}').write_bytes(content)
    for read in (read_weights, read_foreign, load_model, load_rates):
        with pytest.raises(ValueError, match=rf'^[^\n]*x\.{suffix}: [^\n]*{reason}'):
            read(tmp_path / f'x.{suffix}')


@pytest.mark.parametrize('length', [0x3C, 0x213C, 0x0280, 0x4B50])
def test_a_length_that_looks_like_a_page_or_a_pickle(tmp_path, length):
    "A header may be as long as the first bytes of another kind of file spell."
    (tmp_path / 'b').write_bytes(length.to_bytes(8, 'little') + b'{'.ljust(length))
    with pytest.raises(ValueError, match='b: cannot be read as safetensors'):
        read_weights(tmp_path / 'b')


def test_a_name_that_is_none_is_answered(tmp_path):
    names = "'parent', 'parent-group', 'small'"
    for name in ('smal', tmp_path / 'none.safetensors', tmp_path):
        with pytest.raises(
            ValueError, match=rf'{name}: expected a file of weights or one of \[{names}\]'
        ):
            load_model(name)
        with pytest.raises(ValueError, match=f'{name}: expected a file of weights'):
            load_rates(name)


def test_a_file_of_somebody_else_is_refused(tmp_path):
    file = tmp_path / 'other.safetensors'
    save_file(dict(a=torch.zeros(2)), file, metadata=dict(format='pt'))
    with pytest.raises(ValueError, match=r"other\.saf.*metadata 'eosvos'.*got \['format'\]"):
        load_model(file)


BIAS = 'rpn.head.cls_logits.bias'  # (6,)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda t: {name: o for name, o in t.items() if name != BIAS},
            rf'Missing key\(s\) in state_dict: "{BIAS}"',
        ),
        (lambda t: t | dict(extra=torch.zeros(1)), r'Unexpected key\(s\) in state_dict: "extra"'),
        (lambda t: t | {BIAS: torch.zeros(4)}, rf'size mismatch for {BIAS}: .*\[4\].*\[6\]'),
        (lambda t: {}, r'Missing key\(s\) in state_dict: [^\n]{100,250}$'),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=rf'model\.safetensors: .*{message}'):
        load_model(saved)


@pytest.mark.parametrize(
    'about, message',
    [
        (dict(config=dict(anchor=3)), '"anchor"'),
        (dict(config=dict(body='vgg')), "got 'vgg'"),
        (dict(config=dict(rpn=[[32]])), 'should be "RPNConfig"'),
        (dict(config=dict(rpn=dict(sizes=[1]))), 'int'),
        (dict(config='lite0'), 'str'),
        (dict(notes={}), 'config'),
        ([1], 'list'),
    ],
)
def test_a_configuration_that_does_not_fit_names_its_file(saved, about, message):
    rewrite(saved, about=about)
    with pytest.raises(ValueError, match=rf'model\.safetensors: .*{message}'):
        load_model(saved)


def test_a_failed_write_leaves_what_was_there(saved):
    before = saved.read_bytes()
    model = build(TINY)
    with (
        mock.patch.object(weights, 'save_file', side_effect=OSError('no space left')),
        pytest.raises(ValueError, match='no space left'),
    ):
        save_weights(model, TINY, saved)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with pytest.raises(ValueError, match='expected finite numbers'):
        save_weights(model, TINY, saved)
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1
    with pytest.raises(ValueError, match='nowhere'):
        save_weights(build(TINY), TINY, saved.parent / 'nowhere' / 'model.safetensors')


# ---- torchvision's weights


@cache
def coco():
    """The names and shapes of COCO_V1, with random numbers.

    The statistics make the features well scaled."""
    torch.manual_seed(0)
    peer = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    for m in peer.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.5)
    with torch.no_grad():
        peer.train().backbone(torch.rand(2, 3, 96, 128))
    return peer.state_dict()  # with num_batches_tracked, which must not disturb


def test_the_copy_has_the_names_of_the_file():
    state = old_names(coco())
    assert sum('num_batches' not in name for name in state) == 307
    assert {
        'backbone.fpn.inner_blocks.3.weight',
        'rpn.head.conv.bias',
        'roi_heads.mask_head.mask_fcn4.weight',
    } <= state.keys()
    assert _modern_names(state).keys() == coco().keys() == _modern_names(coco()).keys()


@pytest.mark.parametrize('name', [old_names, dict], ids=['2019', 'today'])
def test_coco_into_the_papers_model(name):
    model, state = build(PAPER), coco()
    before = {n: o.clone() for n, o in model.state_dict().items()}
    report = load_coco(model, name(state))
    assert sorted(report['loaded'] + report['left at random']) == sorted(before)
    assert {n.rpartition('.')[0].rpartition('.')[2] for n in report['left at random']} == {
        'cls_score',
        'bbox_pred',
        'mask_fcn_logits',
    }
    assert 'rpn.head.bbox_pred.weight' in report['loaded']
    groups = [n for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)]
    assert report['GroupNorm from BatchNorm'] == groups and len(groups) == 53
    for n, o in model.state_dict().items():
        assert torch.equal(o, (before if n in report['left at random'] else state)[n]), n


def test_coco_into_frozen_batchnorm_equals_torchvision():
    model = build(PAPER)
    norm = partial(resnet.FrozenBatchNorm2d, eps=0.0)
    model.backbone.body = resnet.ResNet50(norm)
    peer = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    for m in list(peer.modules()):
        for name, child in m.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(m, name, FrozenBatchNorm2d(child.num_features))
    state = {name: o.clone() for name, o in coco().items()}
    # some filters are small, and so are their variances: an eps would matter to them
    for name, o in state.items():
        if name.endswith(('conv1.weight', 'bn1.running_mean')):
            o[::7] *= 1e-3
        if name.endswith('bn1.running_var'):
            o[::7] *= 1e-6
    peer.load_state_dict({name: o for name, o in state.items() if 'num_batches' not in name})
    overwrite_eps(peer, 0.0)
    load_coco(model, state)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        pairs = list(zip(model.backbone(x), peer.backbone(x).values(), strict=True))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_coco_does_not_fit_another_architecture():
    with pytest.raises(
        ValueError,
        match=r"expected .* as backbone\.body\.stem.* got \['backbone\.body\.conv1\.weight'",
    ):
        load_coco(build(TINY), coco())
    with pytest.raises(ValueError, match=r"got \['model'\]"):
        load_coco(build(TINY), dict(model=coco()))


def test_coco_without_a_network():
    with (
        mock.patch('torch.hub.download_url_to_file', side_effect=URLError('no route')),
        TemporaryDirectory() as folder,
        mock.patch('torch.hub.get_dir', return_value=folder),
        pytest.raises(ValueError, match=r'coco-bf2d0c1e\.pth: .*file: .*no route'),
    ):
        convert_coco(None, Path(folder) / 'out.safetensors')


def test_coco_is_downloaded_without_unpickling(tmp_path):
    source = MaskRCNN_ResNet50_FPN_Weights
    with (
        mock.patch.object(source, 'get_state_dict', autospec=True, return_value=coco()) as get,
        mock.patch.object(weights, 'save_weights'),
    ):
        assert convert_coco(None, tmp_path / 'out.safetensors').startswith(' 195 loaded: ')
    assert get.call_args.kwargs == dict(check_hash=True, weights_only=True)


class Trap:
    def __reduce__(self):
        return pytest.fail, ('a file of weights was executed',)


def test_foreign_files(tmp_path):
    state = dict(a=torch.ones(2))
    save_file(state, tmp_path / 'a.safetensors')
    torch.save(state, tmp_path / 'a.pth')
    torch.save(state, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    renamed = {'a.safetensors': 'b.pth', 'a.pth': 'b.safetensors', 'old.pth': 'old.bin'}
    for name, other in renamed.items():
        shutil.copy(tmp_path / name, tmp_path / other)
        for file in (name, other):
            assert torch.equal(read_foreign(tmp_path / file)['a'], state['a']), 'by its content'
        with pytest.raises(ValueError, match=f'{other}: (expected|cannot)'):
            read_weights(tmp_path / other)
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'a.pth').read_bytes()[:-200])
    (tmp_path / 'half.safetensors').write_bytes((tmp_path / 'a.safetensors').read_bytes()[:-2])
    torch.save(dict(a=Trap()), tmp_path / 'trap.pth')
    torch.save(nn.Linear(2, 2), tmp_path / 'whole.pth')
    torch.save(nn.Linear(2, 2), tmp_path / 'whole-old.pth', _use_new_zipfile_serialization=False)
    for name in ('half.pth', 'trap.pth', 'whole.pth', 'whole-old.pth'):
        with pytest.raises(ValueError, match=f'{name}: .* got a zip or pickle .* its state_dict'):
            read_foreign(tmp_path / name)
        with pytest.raises(ValueError, match=f'{name}: .* got a pickle .* `eosvos weights`'):
            load_model(tmp_path / name)
    with pytest.raises(ValueError, match=r'half\.safetensors: .* not fully covered$'):
        read_foreign(tmp_path / 'half.safetensors')
    torch.save(torch.ones(2), tmp_path / 'tensor.pth')
    torch.save({1: torch.ones(2)}, tmp_path / 'number.pth')
    for name, kind in (('tensor', 'Tensor'), ('number', 'dict')):
        with pytest.raises(ValueError, match=f'{name}.pth: expected a dict .*, got {kind}$'):
            read_foreign(tmp_path / f'{name}.pth')
    with pytest.raises(ValueError, match='none.pth: cannot be read: No such file'):
        read_foreign(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='cannot be read: Is a directory'):
        read_foreign(tmp_path)


def test_convert_coco():
    with TemporaryDirectory() as folder:  # 176 MB a file: not to be left behind, as tmp_path would
        folder = Path(folder)
        torch.save(old_names(coco()), folder / 'coco.pth')
        state = torch.get_rng_state()
        report = convert_coco(folder / 'coco.pth', folder / 'out.safetensors')
        assert torch.equal(torch.get_rng_state(), state)
        model, config = load_model(folder / 'out.safetensors')
        assert config == PAPER and report.startswith(' 195 loaded: ')
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            again = build(PAPER)
        load_coco(again, coco())
        for name, o in again.state_dict().items():
            assert torch.equal(o, model.state_dict()[name]), name


# ---- the authors' checkpoints


@cache
def authors():
    "A made-up checkpoint in the form of the published ones: 201 + 201 tensors."
    torch.manual_seed(1)
    state, tensors = {}, old_names(build(PAPER).state_dict())
    for name, o in tensors.items():
        dashed = name.replace('.', '-')
        state[f'log_init_lr_{dashed}'] = 1e-3 * (0.5 + torch.rand(len(o), *[1] * (o.dim() - 1)))
        state[f'model_init_{dashed}'] = o
    return state


def test_import_authors():
    state = authors()
    assert len(state) == 402 and sum(o.numel() for o in state.values()) == 44_066_513
    weights, rates = _import_authors(state)
    assert weights.keys() == rates.keys() == build(PAPER).state_dict().keys()
    assert torch.equal(
        weights['roi_heads.mask_head.2.0.weight'],
        state['model_init_roi_heads-mask_head-mask_fcn3-weight'],
    )
    assert torch.equal(rates['rpn.head.conv.0.0.bias'], state['log_init_lr_rpn-head-conv-bias'])
    assert rates['backbone.body.layer1.0.downsample.0.weight'].shape == (256, 1, 1, 1)
    assert (
        _import_authors(dict(meta_optim_state_dict=state, meta_iter=3))[0].keys() == weights.keys()
    )


FC7 = 'log_init_lr_roi_heads-box_head-fc7-weight'  # (1024, 1)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda s: {n: o for n, o in s.items() if n != FC7},
            r"got 201 and 200, such as \['roi_heads\.box_head\.fc7\.weight'\]",
        ),
        (
            lambda s: s | {FC7: torch.zeros(1, 1)},
            r'fc7\.weight: expected a rate per neuron, of shape \(1024, 1\) .*, got \(1, 1\)',
        ),
        (
            lambda s: s | {FC7: torch.full((1024, 1), -6.9)},
            r'fc7\.weight: expected .* at least 0, got .* -6\.9 on: a logarithm',
        ),
        (lambda s: {}, 'got 0 and 0'),
    ],
)
def test_import_authors_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        _import_authors(change(authors()))


def test_convert_authors():
    with TemporaryDirectory() as folder:
        folder, state = Path(folder), authors()
        file, out = folder / 'best.model', folder / 'out.safetensors'
        for broken, message in (
            (coco(), 'got 0 and 0'),
            ({n: o for n, o in state.items() if 'fc7-bias' not in n}, 'Missing key.*fc7.bias'),
        ):
            torch.save(broken, file)
            with pytest.raises(ValueError, match=rf'best\.model: .*{message}'):
                convert_authors(file, out)
        assert not out.exists()
        torch.save(
            dict(meta_optim_state_dict=state, vis_win_names={}, meta_iter=77, meta_epoch=0), file
        )
        report = convert_authors(file, out)
        assert ' 201 loaded: ' in report and ' 201 learning rates kept: ' in report
        tensors, about = read_weights(out)
        assert len(tensors) == 402 and about['notes']['meta_iter'] == '77'
        model, config = load_model(out)
        weights, rates = _import_authors(state)
        assert config == PAPER
        for name, o in model.state_dict().items():
            assert torch.equal(o, weights[name]) and torch.equal(
                tensors[f'rates.{name}'], rates[name]
            ), name
