"Pictures, masks, clips and data sets: bad input above all."

import gc
import io
import os
import warnings
import weakref
import zlib
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps, ImageSequence

from eosvos import video
from eosvos.core import DEMO, PALETTE
from eosvos.video import (
    VOID,
    Clip,
    check_name,
    first_masks,
    natural_key,
    object_ids,
    open_clip,
    pictures,
    read_image,
    read_mask,
    write_mask,
    write_video,
)

quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rgb(size=(30, 20), seed=0):
    "A noisy picture of `size` = (width, height)."
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def moving(count=12, H=32, W=48):
    "Smooth images, each of another brightness, so that frames can be told apart in a video."
    ramp = torch.linspace(0, 0.2, W).expand(3, H, W)
    return [ramp + 0.06 * index for index in range(count)]


def film(path, count=40, pts=None, codec='libx264', **options):
    "A small video whose frames differ, at 25 frames a second or at `pts` thousandths of a second."
    container = options.pop('container', {})
    with av.open(f'file:{path}', 'w', options=container) as file:
        stream = file.add_stream(
            codec, rate=25, options={name: str(value) for name, value in options.items()}
        )
        stream.width, stream.height, stream.pix_fmt = 48, 32, 'yuv420p'
        if pts:
            stream.codec_context.time_base = Fraction(1, 1000)
        noise = (
            np.random.default_rng(0)
            .integers(0, 256, (4, 6 + count, 3), dtype=np.uint8)
            .repeat(8, 0)
            .repeat(8, 1)
        )
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(noise[:, 3 * index : 3 * index + 48]), format='rgb24'
            )
            if pts:
                frame.pts, frame.time_base = pts[index], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


UNEVEN = [index * 40 + 7 * (index * index % 5) for index in range(40)]
FILMS = {
    'usual.mp4': dict(g=12),
    'one_key.mp4': {},
    'all_keys.mp4': dict(g=1),
    'uneven.mp4': dict(g=12, pts=UNEVEN),
    'uneven.mkv': dict(g=12, pts=UNEVEN),
    'open.mp4': {'x264-params': 'keyint=12:open-gop=1:bframes=3:b-adapt=0:scenecut=0'},
    'short.mp4': {'x264-params': 'keyint=2:bframes=3:b-adapt=0'},
    'refreshed.mp4': {'x264-params': 'keyint=12:intra-refresh=1'},
    'pieces.mp4': dict(g=12, container=dict(movflags='frag_keyframe+empty_moov')),
    'no_index.mkv': dict(g=12, container=dict(live='1')),
    'stream.ts': dict(g=12),
    'open.ts': {'x264-params': 'keyint=12:open-gop=1:bframes=3:b-adapt=0'},
    'old.ts': dict(codec='mpeg2video', g=12, bf=2),
    'old.mpg': dict(codec='mpeg2video', g=12, bf=2),
    'old.avi': dict(codec='mpeg4', g=12, bf=2),
    'unordered.avi': dict(g=12),
    'bare.h264': dict(g=12),
    'flash.flv': dict(g=12),
}


def stored(path):
    "The frames of a video from the first to the last, as nothing but FFmpeg gives them."
    with av.open(f'file:{path}') as container:
        return [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]


def equal(image, pixels):
    return np.array_equal(image.permute(1, 2, 0).mul(255).round().numpy(), pixels)


def cut(path, share):
    "Keep the first `share` of a file."
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.fixture
def folder(tmp_path):
    "Three frames of 30x20 pixels."
    (tmp_path / 'frames').mkdir()
    for index in range(3):
        rgb(seed=index).save(tmp_path / 'frames' / f'{index:05d}.png')
    return tmp_path / 'frames'


# ---- pictures


@pytest.mark.parametrize('mode', ['RGB', 'L', 'LA', 'RGBA', 'P', '1', 'CMYK', 'YCbCr'])
def test_every_mode_becomes_rgb(tmp_path, mode):
    picture = rgb().convert(mode)
    path = tmp_path / ('x.tif' if mode in ('CMYK', 'YCbCr') else 'x.png')
    picture.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        image = read_image(path)
    assert image.shape == (3, 20, 30) and image.dtype == torch.float32 and image.is_contiguous()
    expected = torch.from_numpy(np.array(picture.convert('RGB'))).permute(2, 0, 1) / 255
    torch.testing.assert_close(image, expected, atol=2 / 255, rtol=0)


def test_transparent_palette_keeps_its_colours(tmp_path):
    picture = rgb().quantize(8)
    picture.save(tmp_path / 'opaque.png')
    picture.save(tmp_path / 'clear.png', transparency=bytes([0, 100, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(read_image(tmp_path / 'clear.png'), read_image(tmp_path / 'opaque.png'))


@pytest.mark.parametrize('name', ['x.png', 'x.tif'])
def test_sixteen_bits_are_scaled(tmp_path, name):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / name)
    torch.testing.assert_close(
        read_image(tmp_path / name), torch.from_numpy(values / 65535).float().expand(3, -1, -1)
    )


def test_float_pictures_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / 'x.tif')
    with pytest.raises(ValueError, match=r'x\.tif: .*mode F'):
        read_image(tmp_path / 'x.tif')


def turned(turn):
    "EXIF notes that ask viewers to turn a picture, from 1 (as stored) to 8."
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize(
    'name, more',
    [
        ('x.jpg', {}),
        ('x.png', {}),
        ('x.webp', dict(lossless=True)),
        ('x.tif', {}),
        ('x.tiff', dict(compression='tiff_lzw')),
    ],
)
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, turn, name, more):
    rgb().save(tmp_path / name, exif=turned(turn), **more)
    with Image.open(tmp_path / name) as picture:
        expected = np.array(ImageOps.exif_transpose(picture))
    if name != 'x.jpg':
        assert np.array_equal(expected, np.array(ImageOps.exif_transpose(noted(rgb(), turn))))
    assert np.array_equal(
        read_image(tmp_path / name).permute(1, 2, 0).mul(255).round().numpy(), expected
    )
    assert (
        video._picture_size(tmp_path / name)
        == expected.shape[:2]
        == ((20, 30) if turn < 5 else (30, 20))
    )


def noted(picture, turn):
    "The same picture with notes of its orientation."
    picture.getexif()[0x0112] = turn
    return picture


@pytest.mark.parametrize('turn', [3, 6, 7])
@pytest.mark.parametrize('mode', ['P', 'L', '1', 'I;16'])
@pytest.mark.parametrize('name', ['x.png', 'x.tif'])
def test_masks_are_turned_like_frames(tmp_path, turn, mode, name):
    ids = np.arange(6, dtype=np.uint16 if mode == 'I;16' else np.uint8).reshape(2, 3)
    picture = Image.fromarray(ids * 255 if mode == '1' else ids)
    if mode == 'P':
        picture.putpalette([0] * 768)
    if mode == '1':
        picture = picture.convert('1')
    picture.save(tmp_path / name, exif=turned(turn))
    expected = np.array(ImageOps.exif_transpose(noted(Image.fromarray(ids), turn)))
    assert np.array_equal(
        read_mask(tmp_path / name).numpy(), expected > 0 if mode == '1' else expected
    )
    assert video._picture_size(tmp_path / name) == expected.shape


def pages(path, count=3, **more):
    "A file of several pictures, each of another brightness."
    stack = [
        Image.new('RGB', (30, 20), (40 * index, 90, 200 - 40 * index)) for index in range(count)
    ]
    stack[0].save(path, save_all=True, append_images=stack[1:], **more)
    return path


STACKS = {
    'x.tif': {},
    'x.gif': {},
    'x.webp': dict(lossless=True),
    'x.png': {},
    'x.avif': dict(quality=100),
}


@pytest.mark.parametrize('name', STACKS)
@pytest.mark.parametrize('read', [read_image, read_mask, video._picture_size])
def test_files_of_several_pictures_are_no_picture(tmp_path, name, read):
    with pytest.raises(ValueError, match=rf'{name}: .*expected one.*holds 3'):
        read(pages(tmp_path / name, **STACKS[name]))


def test_the_first_picture_of_a_phone_is_the_photograph(tmp_path):
    "An MPO holds previews behind it, or what the other eye sees."
    pages(tmp_path / 'x.jpg', format='MPO', quality=95)
    with Image.open(tmp_path / 'x.jpg') as picture:
        assert picture.format == 'MPO' and picture.n_frames == 3
    assert read_image(tmp_path / 'x.jpg').mean((1, 2)).mul(255).round().tolist() == pytest.approx(
        [0, 90, 200], abs=3
    )
    assert len(open_clip(tmp_path / 'x.jpg')) == 1


@pytest.mark.parametrize('read', [read_image, read_mask])
@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.webp', '.tif'])
@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.9])
def test_truncated_pictures_are_named(tmp_path, read, suffix, share):
    path = tmp_path / f'x{suffix}'
    rgb((100, 80)).convert('L').save(path)
    with pytest.raises(ValueError, match=rf'x\{suffix}: cannot be read as a picture'):
        read(cut(path, share))


@pytest.mark.parametrize('read', [read_image, read_mask])
def test_missing_files_and_folders_are_named(tmp_path, read):
    with pytest.raises(ValueError, match=r'nope\.png: cannot be read as a picture: No such file'):
        read(tmp_path / 'nope.png')
    with pytest.raises(ValueError, match='cannot be read'):
        read(tmp_path)
    (tmp_path / 'text.png').write_text('hello')
    with pytest.raises(ValueError, match=r'text\.png: cannot be read'):
        read(tmp_path / 'text.png')


def encoded(mode, form):
    "The bytes of a small picture with notes of its orientation."
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3
    picture = (
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
        if mode == 'I;16'
        else rgb().convert(mode)
    )
    picture.save(buffer, form, **({} if form == 'BMP' else dict(exif=exif)))
    return buffer.getvalue()


MODES = dict(
    PNG=('RGB', 'L', 'P', '1', 'RGBA', 'LA', 'I;16'),
    JPEG=('RGB', 'L', 'CMYK'),
    TIFF=('RGB', 'P', 'I;16', 'CMYK'),
    BMP=('RGB', 'P', '1'),
    WEBP=('RGB', 'RGBA'),
)
PICTURES = [encoded(mode, form) for form, modes in MODES.items() for mode in modes]


@settings(quick, max_examples=400)
@given(
    content=st.sampled_from(PICTURES),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    keep=st.integers(0, 8000),
)
def test_damaged_pictures_are_read_or_named(tmp_path, content, changes, keep):
    damaged = bytearray(content)
    for place, value in changes:  # half of them in its head
        damaged[place % len(damaged) if place % 2 else place % 60] = value
    path = tmp_path / 'x.png'
    path.write_bytes(damaged[:keep])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for read in (read_image, read_mask, video._picture_size):
            try:
                result = read(path)
            except ValueError as error:
                assert 'x.png: ' in str(error)
            else:
                size = result if read is video._picture_size else result.shape[-2:]
                assert size == video._picture_size(path)


def test_damaged_notes_do_not_matter(tmp_path):
    content = encoded('RGB', 'JPEG')
    assert b'Exif\0\0MM' in content
    (tmp_path / 'x.jpg').write_bytes(content.replace(b'Exif\0\0MM', b'Exif\0\0KM'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_image(tmp_path / 'x.jpg').shape == (3, 20, 30)


@pytest.mark.parametrize('side', [2**13 + 1, 15_000, 2**31 - 1])
@pytest.mark.parametrize('read', [read_image, read_mask, video._picture_size])
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch, read, side):
    content = bytearray(encoded('L', 'PNG'))
    content[16:24] = 2 * side.to_bytes(4)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / 'x.png').write_bytes(content)
    monkeypatch.setattr(Image.Image, 'load', None)
    with pytest.raises(
        ValueError,
        match=rf'x\.png: cannot be .*: .*({side}x{side} pixels are more than|exceeds limit)',
    ):
        read(tmp_path / 'x.png')


def test_the_size_is_known_without_decoding(tmp_path, monkeypatch):
    rgb().save(tmp_path / 'x.png')
    cut(tmp_path / 'x.png', 0.1)
    assert video._picture_size(tmp_path / 'x.png') == (20, 30)
    for name in ('nope.png', '.'):
        with pytest.raises(ValueError, match='cannot be read'):
            video._picture_size(tmp_path / name)


# ---- masks

id_maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, 3, 17, 254, 255]),
)


@quick
@given(id_maps)
def test_masks_survive_the_round_trip(ids):
    ids = torch.from_numpy(ids).long()
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'x.png'
        write_mask(path, ids)
        assert os.listdir(folder) == ['x.png']
        only_void = set(ids.unique().tolist()) - {0} == {VOID}
        assert torch.equal(read_mask(path), (ids == VOID).long() if only_void else ids)
        with Image.open(path) as file:
            assert file.mode == 'P' and torch.equal(
                torch.tensor(file.getpalette()).view(-1, 3), PALETTE.long()
            )
            assert torch.equal(torch.from_numpy(np.array(file.convert('RGB'))), PALETTE[ids])


@quick
@given(id_maps, st.sampled_from(['L', 'P', 'I;16']))
def test_modes_of_a_mask_agree(ids, mode):
    with TemporaryDirectory() as folder:
        picture = Image.fromarray(ids.astype(np.uint16)) if mode == 'I;16' else Image.fromarray(ids)
        if mode == 'P':
            picture.putpalette([0] * 768)
        picture.save(Path(folder) / 'x.png')
        read = read_mask(Path(folder) / 'x.png')
    white = set(np.unique(ids)) - {0} == {255}
    assert read.dtype == torch.int64
    assert np.array_equal(read.numpy(), ids == 255 if white else ids)


def test_sixteen_bit_ids(tmp_path):
    Image.fromarray(np.array([[0, 300, 65535]], np.uint16)).save(tmp_path / 'x.png')
    assert read_mask(tmp_path / 'x.png').tolist() == [[0, 300, 65535]]


def test_one_bit_mask(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert('1').save(tmp_path / 'x.png')
    assert read_mask(tmp_path / 'x.png').tolist() == [[0, 1]]


def test_255_is_an_object_alone_and_void_beside_others(tmp_path):
    for values, expected in [
        ([0, 255], [0, 1]),
        ([255, 255], [1, 1]),
        ([0, 0], [0, 0]),
        ([1, 255], [1, 255]),
    ]:
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / 'x.png')
        assert read_mask(tmp_path / 'x.png').tolist() == [expected]
    assert object_ids(torch.tensor([[0, 255, 9, 3]])) == [3, 9]


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA', 'CMYK'])
def test_colour_masks_are_refused_by_name_and_mode(tmp_path, mode):
    path = tmp_path / ('mask.tif' if mode == 'CMYK' else 'mask.png')
    rgb().convert(mode).save(path)
    with pytest.raises(ValueError, match=rf'{path.name}: .*of mode {mode}$'):
        read_mask(path)


def test_jpeg_masks_are_refused(tmp_path):
    rgb().convert('L').save(tmp_path / 'mask.jpg')
    with pytest.raises(ValueError, match=r'mask\.jpg: .*without loss'):
        read_mask(tmp_path / 'mask.jpg')


@pytest.mark.parametrize(
    'ids',
    [
        torch.zeros(4, 4),
        torch.zeros(1, 4, 4).long(),
        torch.tensor([[-1]]),
        torch.tensor([[256]]),
        torch.zeros(0, 4).long(),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match=r'x\.png: expected'):
        write_mask(tmp_path / 'x.png', ids)
    assert os.listdir(tmp_path) == []


def test_masks_of_other_types(tmp_path):
    for ids in (
        torch.ones(2, 3, dtype=torch.bool),
        torch.ones(2, 3, dtype=torch.uint8),
        torch.ones(2, 3, dtype=torch.int32),
    ):
        write_mask(tmp_path / 'x.png', ids)
        assert torch.equal(read_mask(tmp_path / 'x.png'), torch.ones(2, 3).long())


def test_a_mask_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').touch()
    for place in ('file', 'missing'):
        with pytest.raises(ValueError, match=r'x\.png cannot be written'):
            write_mask(tmp_path / place / 'x.png', torch.ones(2, 2).long())


# ---- folders


def test_natural_order(tmp_path):
    for name in ['10', '9', '1', '01', 'b2', 'b10', 'a']:
        rgb((2, 2)).save(tmp_path / f'{name}.png')
    (tmp_path / 'notes.txt').touch()
    (tmp_path / '.hidden.png').touch()
    with pytest.warns(UserWarning, match='01 is taken before 1;'):
        assert list(pictures(tmp_path)) == ['01', '1', '9', '10', 'a', 'b2', 'b10']


@pytest.mark.parametrize(
    'names',
    [
        ['-5', '-1', '0', '2', '10'],
        ['0.04', '0.2', '1', '1.04'],
        ['-0.5', '0.25', '+3'],
        ['1.10', '1.9'],
        ['frame0.2', 'frame0.04'],
        ['v1', 'v01'],
        ['1', '1.0'],
    ],
)
def test_names_that_leave_the_order_open_are_said(tmp_path, names):
    for name in names:
        rgb((2, 2)).save(tmp_path / f'{name}.png')
    with pytest.warns(UserWarning, match=f'^{tmp_path}: .* is taken before .*') as said:
        found = list(pictures(tmp_path))
    assert len(said) == 1 and sorted(found) == sorted(names)
    if names[0] not in ('1', 'v1', 'frame0.2'):
        assert found == names


@pytest.mark.parametrize(
    'names',
    [
        ['00000', '00001', '00010'],
        ['1', '2', '10'],
        ['shot-1', 'shot-2', 'shot-10'],
        ['a.0001', 'a.0002', 'a.0010'],
        ['0.25', '0.50', '1.00'],
        ['12345.678', '12345.680'],
        ['2024-01-31_10.00.00', '2024-02-01_09.59.59'],
        ['IMG_1(1)', 'IMG_1(2)', 'IMG_2'],
    ],
)
def test_names_in_a_clear_order_are_not(tmp_path, names):
    for name in names:
        rgb((2, 2)).save(tmp_path / f'{name}.png')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert list(pictures(tmp_path)) == names


@quick
@given(st.lists(st.integers(0, 10**12), unique=True))
def test_numbers_sort_as_numbers(numbers):
    assert sorted(map(str, numbers), key=natural_key) == [str(number) for number in sorted(numbers)]


@quick
@given(st.lists(st.decimals(-1000, 1000, places=3), unique=True))
def test_signs_and_decimals_sort_by_value(numbers):
    for suffix in ('', '.png'):
        assert sorted([f'{number}{suffix}' for number in numbers], key=natural_key) == [
            f'{number}{suffix}' for number in sorted(numbers)
        ]


@quick
@given(st.lists(st.text(max_size=8)))
def test_any_names_can_be_sorted(names):
    assert sorted(sorted(names, key=natural_key)[::-1], key=natural_key) == sorted(
        names, key=natural_key
    )


@pytest.mark.parametrize(
    'suffix',
    ['jfif', 'jpe', 'jp2', 'gif', 'ppm', 'pgm', 'tga', 'avif', 'apng', 'pcx', 'dib', 'JPG'],
)
def test_pictures_of_any_suffix_are_frames(folder, suffix):
    rgb().convert('L').save(folder / f'00003.{suffix}')
    for name in (
        'notes.txt',
        'meta.json',
        '.DS_Store',
        'Thumbs.db',
        'desktop.ini',
        'x.h5',
        'clip.mpg',
        'x.csv',
        'noise',
    ):
        (folder / name).write_text('no picture')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert list(pictures(folder)) == ['00000', '00001', '00002', '00003']
    assert open_clip(folder)[3].shape == (3, 20, 30)


def test_pictures_without_a_usual_suffix_are_said(folder, tmp_path):
    for name in ('00003.jpg_large', '00004', '00005.img'):
        rgb().save(folder / name, format='PNG')
    os.mkfifo(folder / 'pipe')
    (folder / 'sub').mkdir()
    (folder / 'notes.txt').write_text('no picture')
    with pytest.warns(
        UserWarning,
        match='frames: 3 pictures without a usual suffix are left out, such as 00003.jpg_large',
    ) as said:
        assert len(pictures(folder)) == 3
    assert len(said) == 1


def test_the_mask_beside_its_frames_is_no_frame(folder, tmp_path, monkeypatch):
    mask = folder / '00000.jpeg'  # even of the name of a frame
    rgb().save(mask)
    (tmp_path / 'link.png').symlink_to(mask)
    (folder / 'loop').symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for path in (
        mask,
        str(mask),
        'frames/../frames/00000.jpeg',
        'link.png',
        folder / 'loop' / '00000.jpeg',
    ):
        assert open_clip(folder, path).names == ['00000', '00001', '00002']
        assert open_clip('frames', path).files[0].name == '00000.png'
    mask.rename(tmp_path / 'mask.png')
    (folder / '00003.png').symlink_to(tmp_path / 'mask.png')
    assert len(open_clip(folder, tmp_path / 'mask.png')) == 3 and len(open_clip(folder)) == 4


def test_other_masks_leave_the_frames_alone(folder, tmp_path):
    for path in (None, folder / 'masks', tmp_path / 'nowhere.png', folder):
        assert len(open_clip(folder, path)) == 3


def test_a_folder_of_frames(folder):
    clip = open_clip(folder)
    assert (
        clip.names == ['00000', '00001', '00002']
        and len(clip) == len(list(clip)) == 3
        and clip.size == (20, 30)
    )
    assert torch.equal(clip[-1], read_image(folder / '00002.png'))
    with pytest.raises(IndexError):
        clip[3]


def test_folders_that_are_no_clip(tmp_path, folder):
    (tmp_path / 'none').mkdir()
    with pytest.raises(ValueError, match='none: no pictures'):
        open_clip(tmp_path / 'none')
    with pytest.raises(ValueError, match='nope: cannot be read .* No such file'):
        open_clip(tmp_path / 'nope')
    rgb().save(folder / '00001.jpg')
    with pytest.raises(ValueError, match=r'got 00001\.jpg and 00001\.png'):
        open_clip(folder)


@pytest.mark.parametrize(
    'name', ['', '.', '..', '../x', '/etc/x', 'a/b', 'a/', 'a\0b', 'a\nb', '\udcff', 'x\ud800']
)
def test_names_that_no_result_can_have(name):
    with pytest.raises(
        ValueError, match=r'list\.txt: expected a name that is one part of a path'
    ) as caught:
        check_name(name, 'list.txt')
    str(caught.value).encode()


@quick
@given(st.text(max_size=20))
def test_a_good_name_stays_in_its_folder(name):
    try:
        check_name(name, 'list.txt')
    except ValueError:
        return
    with TemporaryDirectory() as folder:
        (Path(folder) / 'out').mkdir()
        write_mask(Path(folder) / 'out' / f'{name}.png', torch.ones(2, 2).long())
        assert os.listdir(folder) == ['out']
        if not name.startswith('.'):
            assert list(pictures(Path(folder) / 'out')) == [name]


def test_what_only_looks_like_a_picture_file(folder):
    for make in (lambda path: path.symlink_to(folder / 'nowhere'), os.mkfifo, os.mkdir):
        make(folder / 'x.png')
        with pytest.raises(
            ValueError,
            match=r'frames/x\.png: expected a picture file, got .* a link to nothing',
        ):
            pictures(folder)
        (folder / 'x.png').rmdir() if (folder / 'x.png').is_dir() else (folder / 'x.png').unlink()
    (folder / 'x.png').symlink_to(folder / '00000.png')
    assert list(pictures(folder)) == ['00000', '00001', '00002', 'x']


def test_file_names_that_are_no_text(folder):
    with open(os.fsencode(folder) + b'/\xff.png', 'wb'):
        pass
    with pytest.raises(
        ValueError, match=r"frames: expected a name .* in UTF-8, got '\\udcff'"
    ) as caught:
        pictures(folder)
    str(caught.value).encode()


def test_folders_that_cannot_be_listed(tmp_path):
    (tmp_path / 'file').touch()
    for name, reason in [
        ('nope', 'No such file'),
        ('file', 'Not a directory'),
        ('x' * 300, 'File name too long'),
    ]:
        with pytest.raises(ValueError, match=f'{name}: cannot be listed: {reason}'):
            pictures(tmp_path / name)


def test_a_clip_of_listed_files(folder):
    clip = Clip([folder / '00002.png', folder / '00000.png'])
    assert (
        clip.names == ['00002', '00000']
        and len(clip) == 2
        and torch.equal(clip[1], read_image(folder / '00000.png'))
    )


def test_a_broken_head_is_found_before_a_frame_is_read(folder):
    rgb((31, 20)).save(folder / '00002.png')
    with pytest.raises(ValueError, match=r'00002\.png: expected 30x20 .*got 31x20'):
        open_clip(folder)
    pages(folder / '00002.png')
    with pytest.raises(ValueError, match=r'00002\.png: .*holds 3'):
        open_clip(folder)
    (folder / '00002.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'00002\.png: cannot be read'):
        open_clip(folder)


def test_a_truncated_frame_is_named(folder):
    cut(folder / '00001.png', 0.5)
    with pytest.raises(ValueError, match=r'00001\.png: cannot be read'):
        open_clip(folder)[1]


def test_a_folder_of_turned_frames(folder, tmp_path):
    for index in range(3):
        rgb(seed=index).save(folder / f'{index:05d}.png', exif=turned(8 if index else 6))
    with pytest.warns(
        UserWarning, match='frames: turned as viewers show it, to 20x30 pixels'
    ) as said:
        clip = open_clip(folder)
    assert clip.size == (30, 20) and len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        expected = read_image(tmp_path / 'frames' / '00001.png')
        assert torch.equal(clip[1], expected) and expected.shape == (3, 30, 20)
    write_mask(tmp_path / 'mask.png', torch.ones(20, 30).long())
    with pytest.raises(
        ValueError,
        match='expected 20x30 .* in the frames, got 30x20',
    ):
        first_masks(tmp_path / 'mask.png', clip)


@pytest.mark.parametrize('name', STACKS)
@quick
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_the_pages_of_a_file_are_frames(tmp_path_factory, name, order):
    path = tmp_path_factory.getbasetemp() / f'stack_{name}'
    if not path.exists():
        pages(path, **STACKS[name])
    with Image.open(path) as picture:
        expected = [np.array(page.convert('RGB')) for page in ImageSequence.Iterator(picture)]
    clip = open_clip(path)
    assert clip.names == ['00000', '00001', '00002'] and clip.size == (20, 30)
    for index in order:
        assert np.array_equal(
            clip[index].permute(1, 2, 0).mul(255).round().numpy(), expected[index]
        )


def test_pages_of_sixteen_bits_keep_them(tmp_path):
    values = [np.full((4, 6), value, np.uint16) for value in (100, 4095)]
    Image.fromarray(values[0]).save(
        tmp_path / 'x.tif', save_all=True, append_images=[Image.fromarray(values[1])]
    )
    assert [image[0, 0, 0].item() for image in open_clip(tmp_path / 'x.tif')] == pytest.approx(
        [100 / 65535, 4095 / 65535]
    )


def test_pages_of_another_size_or_none_are_named(tmp_path):
    Image.new('L', (6, 4)).save(
        tmp_path / 'x.tif',
        save_all=True,
        append_images=[Image.new('L', (6, 4)), Image.new('L', (5, 4))],
    )
    with pytest.raises(ValueError, match=r'x\.tif/00002: expected 6x4 .* got 5x4'):
        open_clip(tmp_path / 'x.tif')
    pages(tmp_path / 'y.tif', 30)
    with pytest.raises(ValueError, match=r'y\.tif'):
        list(open_clip(cut(tmp_path / 'y.tif', 0.7)))


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif', 'gif'])
def test_one_picture_is_a_clip_of_one_frame(tmp_path, suffix):
    rgb().save(tmp_path / f'x%03d.{suffix}')
    clip = open_clip(tmp_path / f'x%03d.{suffix}')
    assert (
        clip.names == ['00000']
        and torch.equal(clip[0], clip[0])
        and torch.equal(clip[0], read_image(tmp_path / f'x%03d.{suffix}'))
    )


def test_grey_and_transparent_frames_mix(folder):
    rgb().convert('L').save(folder / '00000.png')
    rgb().convert('RGBA').save(folder / '00001.png')
    assert all(image.shape == (3, 20, 30) for image in open_clip(folder))


# ---- video files


@pytest.mark.parametrize('name', ['x.mp4', 'x.mkv', 'x.avi'])
def test_video_round_trip(tmp_path, name):
    images = moving()
    beat = Fraction(1, 30) if name == 'x.avi' else Fraction(1001, 30000)
    times = [index * beat for index in range(13)]
    write_video(tmp_path / name, images, times)
    clip = open_clip(tmp_path / name)
    assert clip.size == (32, 48) and clip.names == [f'{index:05d}' for index in range(12)]
    assert [float(time) for time in clip.times] == pytest.approx(times, abs=0.001)
    for image, read in zip(images, clip, strict=True):
        torch.testing.assert_close(read, image, atol=0.025, rtol=0)
    with pytest.raises(IndexError):
        clip[12]
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0].codec_context
        assert stream.name == 'h264' and stream.pix_fmt == 'yuv420p'


@pytest.mark.parametrize('size', [(1, 1), (31, 48), (32, 47), (17, 3)])
def test_odd_sizes_are_padded(tmp_path, size):
    H, W = size
    write_video(tmp_path / 'x.mp4', [torch.full((3, H, W), 0.5)] * 2)
    clip = open_clip(tmp_path / 'x.mp4')
    assert clip.size == (H + H % 2, W + W % 2)
    torch.testing.assert_close(clip[1], torch.full((3, *clip.size), 0.5), atol=0.02, rtol=0)


@pytest.fixture(scope='session', params=FILMS)
def shot(request, tmp_path_factory):
    "One of the films, and its frames: each is encoded once, and decoded once by FFmpeg alone."
    path = film(tmp_path_factory.mktemp('films') / request.param, **FILMS[request.param])
    return path, stored(path)


@pytest.mark.parametrize('kept', [1, 5, 1000])
def test_any_order_of_frames(shot, kept, monkeypatch):
    "Long walks on one clip: anywhere, on to the next few frames, and back by a few."
    path, frames = shot
    monkeypatch.setattr(video, '_KEPT', kept * 48 * 32 * 3 // 2)
    clip = open_clip(path)
    assert len(clip) == len(frames) == 40
    random = np.random.default_rng(kept)
    for start, step in zip(random.integers(40, size=12), random.integers(-2, 3, size=12)):
        for index in range(start, start + 4 * step, step) if step else [start]:
            assert equal(clip[index % 40], frames[index % 40]), index
            assert len(clip._kept) <= kept


@pytest.fixture
def decoded(monkeypatch):
    "The times of the frames that are decoded, as they come."
    times, decode = [], video._decode

    def counting(*arguments):
        for frame in decode(*arguments):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, '_decode', counting)
    return times


@pytest.mark.parametrize(
    'name',
    [
        'usual.mp4',
        'all_keys.mp4',
        'uneven.mp4',
        'uneven.mkv',
        'open.mp4',
        'pieces.mp4',
        'no_index.mkv',
        'stream.ts',
        'open.ts',
        'old.ts',
        'old.avi',
        'flash.flv',
    ],
)
def test_reading_backwards_decodes_a_few_times_as_many_frames(tmp_path, decoded, monkeypatch, name):
    film(tmp_path / name, **FILMS[name])
    monkeypatch.setattr(
        video, '_KEPT', 12 * 48 * 32 * 3 // 2
    )  # as many as lie between two key frames
    clip = open_clip(tmp_path / name)
    assert len(decoded) == 40
    for index in range(40):
        clip[index]
    assert len(decoded) <= 80, 'forwards, each once more'
    decoded.clear()
    for index in reversed(range(40)):
        clip[index]
    assert len(decoded) <= 3 * 40
    decoded.clear()
    for _ in range(9):
        clip[0]
    assert len(decoded) == 0


def test_a_short_video_is_decoded_once(tmp_path, decoded):
    clip = open_clip(film(tmp_path / 'x.mp4'))
    for index in [*range(40), *reversed(range(40))]:
        clip[index]
    assert len(decoded) == 40


def test_frames_are_not_kept(tmp_path):
    write_video(tmp_path / 'x.mp4', moving())
    for clip in (open_clip(tmp_path / 'x.mp4'), open_clip(DEMO / 'frames')):
        seen = [weakref.ref(clip[index]) for index in range(5)]
        gc.collect()
        assert not any(reference() is not None for reference in seen)


def test_images_for_a_video_are_taken_one_at_a_time(tmp_path):
    alive = []

    def images():
        for image in moving(40):
            alive.append(weakref.ref(image := image.clone()))
            yield image
            del image
            assert sum(reference() is not None for reference in alive) <= 1

    write_video(tmp_path / 'x.mp4', images())


@pytest.mark.parametrize('name', ['x.mp4', 'x.mkv', 'x.avi'])
def test_broken_videos_are_named(tmp_path, name):
    write_video(tmp_path / name, [torch.rand(3, 64, 64) for _ in range(30)])
    content = bytearray((tmp_path / name).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{name}: cannot be read as a video'):
        len(open_clip(tmp_path / name))


@quick
@example(changes=[(76096, 16)], keep=1.0)  # FFmpeg says that memory is wanting
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0, 2),
)
def test_damaged_videos_are_read_or_named(tmp_path_factory, changes, keep):
    path = tmp_path_factory.getbasetemp() / 'whole.mp4'
    if not path.exists():
        write_video(path, moving(5))
    damaged = bytearray(path.read_bytes())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        (Path(folder) / 'x.mp4').write_bytes(damaged[: int(keep * len(damaged))])
        try:
            clip = open_clip(Path(folder) / 'x.mp4')
            assert all(clip[i].shape == (3, *clip.size) for i in range(len(clip)))
        except ValueError as error:
            assert 'x.mp4: ' in str(error)


def test_what_is_no_video_is_named(tmp_path):
    write_video(tmp_path / 'half.mp4', moving())
    cut(tmp_path / 'half.mp4', 0.5)
    (tmp_path / 'random.mp4').write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / 'text.mp4').write_text('hello')
    (tmp_path / 'empty.mp4').touch()
    for name in ('half', 'random', 'text', 'empty'):
        with pytest.raises(ValueError, match=rf'{name}\.mp4: cannot be read as a video'):
            open_clip(tmp_path / f'{name}.mp4')


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / 'x.wav'), 'w') as container:
        stream = container.add_stream('pcm_s16le', rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format='s16', layout='mono'
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r'x\.wav: .*no video'):
        open_clip(tmp_path / 'x.wav')


def with_matrix(path, a, b, c, d):
    "Write the display matrix of a video: (x, y) is shown at (ax + cy, bx + dy)."
    content = bytearray(path.read_bytes())
    matrix = (
        content.index(b'tkhd') + 4 + 40
    )  # behind the fixed fields of a track header of version 0
    assert content[matrix : matrix + 4] == b'\0\1\0\0'
    content[matrix : matrix + 36] = (
        (np.array([a, b, 0, c, d, 0, 0, 0, 2**14]) * 65536).astype('>i4').tobytes()
    )
    path.write_bytes(content)


@pytest.mark.parametrize(
    'matrix, turn',
    [
        ((0, 1, -1, 0), 6),
        ((-1, 0, 0, -1), 3),
        ((0, -1, 1, 0), 8),
        ((-1, 0, 0, 1), 2),
        ((1, 0, 0, -1), 4),
        ((0, 1, 1, 0), 5),
        ((0, -1, -1, 0), 7),
    ],
)
def test_videos_are_turned_as_viewers_turn_them(tmp_path, matrix, turn):
    "A camera that is held like a phone notes (0, 1, -1, 0) in a video, and 6 in a photograph."
    frames = stored(film(tmp_path / 'x.mp4', 3))
    with_matrix(tmp_path / 'x.mp4', *matrix)
    with pytest.warns(UserWarning, match=r'x\.mp4: turned as viewers show it') as said:
        clip = open_clip(tmp_path / 'x.mp4')
    assert len(said) == 1 and clip.size == clip[0].shape[1:] == ((48, 32) if turn > 4 else (32, 48))
    for image, stored_frame in zip(clip, frames, strict=True):
        assert equal(
            image, np.array(ImageOps.exif_transpose(noted(Image.fromarray(stored_frame), turn)))
        )
    if turn > 4:
        write_mask(tmp_path / 'mask.png', torch.ones(32, 48).long())
        with pytest.raises(ValueError, match='as in the frames, got 48x32'):
            first_masks(tmp_path / 'mask.png', clip)


@pytest.mark.parametrize('name', ['uneven.mp4', 'uneven.mkv'])
def test_times_of_the_frames_are_kept(tmp_path, name):
    pts = [*UNEVEN[:-1], UNEVEN[-1] + 900]
    clip = open_clip(film(tmp_path / name, pts=pts, g=12))
    assert [time * 1000 for time in clip.times[:-1]] == pts
    times = [*clip.times[:-1], clip.times[-2] + 2]
    write_video(tmp_path / 'again.mp4', clip, times=times)
    again = open_clip(tmp_path / 'again.mp4')
    assert again.times == times
    with av.open(str(tmp_path / 'again.mp4')) as container:
        assert abs(container.duration / 10**6 - float(times[-1])) < 0.002
    torch.testing.assert_close(again[20], clip[20], atol=0.2, rtol=0)


def test_times_of_an_animation_are_kept(tmp_path):
    for name in ('x.gif', 'x.png'):
        clip = open_clip(pages(tmp_path / name, duration=[100, 700, 200]))
        assert clip.times == [0, Fraction(1, 10), Fraction(8, 10), 1]


@pytest.mark.parametrize('name', ['unordered.avi', 'bare.h264'])
def test_times_that_make_no_sense_are_even(tmp_path, name):
    assert open_clip(film(tmp_path / name, **FILMS[name])).times == [
        Fraction(index, 25) for index in range(41)
    ]


def test_the_times_of_a_folder(folder):
    assert open_clip(folder).times == [0, Fraction(1, 24), Fraction(2, 24), Fraction(3, 24)]


@pytest.mark.parametrize(
    'name',
    [
        '12:30.mp4',
        'x%03d.mp4',
        '-x.mp4',
        'http:x.mp4',
        'a b#?&.mp4',
        'file:x.mp4',
        '100%.mkv',
        'pipe:1.mp4',
        "it's.mp4",
    ],
)
def test_any_name_is_a_name_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(name, moving(2))
    assert os.listdir() == [name]
    clip = open_clip(name)
    assert len(clip) == 2 and clip.size == clip[1].shape[1:] == (32, 48)


@pytest.mark.parametrize('name', ['x.mp4', 'x.flv'])
def test_of_a_cut_video_the_frames_before_the_cut_are_taken_if_asked_for(tmp_path, name):
    whole = stored(
        film(tmp_path / name, g=12, container=dict(movflags='faststart') if name == 'x.mp4' else {})
    )
    cut(tmp_path / name, 0.7)
    with pytest.raises(
        ValueError,
        match=rf'{name}: cannot be read as a video: .* after \d+ frames; --partial takes those',
    ) as caught:
        open_clip(tmp_path / name)
    count = int(str(caught.value).split(' after ')[1].split()[0])
    with pytest.warns(UserWarning, match=f'after {count} frames; those are taken'):
        clip = open_clip(tmp_path / name, partial=True)
    assert 10 < len(clip) == count < 40 and len(clip.times) == count + 1
    for index in reversed(range(count)):
        assert equal(clip[index], whole[index])


def test_nothing_of_a_video_is_no_part_of_it(tmp_path):
    (tmp_path / 'x.mp4').write_text('hello')
    with pytest.raises(
        ValueError, match=r'x\.mp4: cannot be read as a video: [^;]*$'
    ):
        open_clip(tmp_path / 'x.mp4', partial=True)


def test_want_of_memory_is_no_broken_file(tmp_path, folder, monkeypatch):
    write_video(tmp_path / 'x.mp4', moving(2))
    clip = open_clip(folder)

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(av, 'open', fail)
    monkeypatch.setattr(Image.Image, 'convert', fail)
    with pytest.raises(MemoryError):
        open_clip(tmp_path / 'x.mp4')
    with pytest.raises(MemoryError):
        clip[0]


def test_sizes_that_ask_for_too_much_memory_are_damage(tmp_path, monkeypatch):
    write_video(tmp_path / 'x.mp4', moving(2))

    def fail(*arguments, **options):
        raise av.error.MemoryError(12, 'Cannot allocate memory', 'x.mp4')

    monkeypatch.setattr(av, 'open', fail)
    with pytest.raises(ValueError, match=r'x\.mp4: cannot be read as a video: damaged data, or'):
        open_clip(tmp_path / 'x.mp4')


def test_videos_that_fail_leave_nothing(tmp_path):
    (tmp_path / 'x.mp4').write_text('old')

    def failing():
        yield from moving(3)
        raise RuntimeError('stop')

    with pytest.raises(RuntimeError, match='stop'):
        write_video(tmp_path / 'x.mp4', failing())
    with pytest.raises(ValueError, match=r'x\.mp4: expected 48x32 .*got 47x32 .* at 0\.083'):
        write_video(tmp_path / 'x.mp4', [*moving(2), torch.zeros(3, 32, 47)])
    with pytest.raises(ValueError, match=r'x\.mp4: expected at least one image'):
        write_video(tmp_path / 'x.mp4', [])
    assert (tmp_path / 'x.mp4').read_text() == 'old' and os.listdir(tmp_path) == ['x.mp4']
    with pytest.raises(ValueError, match=r'x\.mp4 cannot be written'):
        write_video(tmp_path / 'missing' / 'x.mp4', moving(1))


# ---- given masks


def test_one_mask(folder, tmp_path):
    clip, ids = open_clip(folder), torch.zeros(20, 30, dtype=torch.int64)
    ids[3, 4] = 5
    write_mask(tmp_path / 'mask.png', ids)
    assert first_masks(tmp_path / 'mask.png', clip).keys() == {0}
    given = first_masks(tmp_path / 'mask.png', clip, frame=2)
    assert given.keys() == {2} and torch.equal(given[2], ids)
    for frame in (-1, 3):
        with pytest.raises(
            ValueError, match=rf'mask\.png: expected a frame from 0 to 2, got {frame}'
        ):
            first_masks(tmp_path / 'mask.png', clip, frame=frame)


def test_masks_where_objects_appear_later(folder, tmp_path):
    (tmp_path / 'masks').mkdir()
    for index in (2, 0):
        write_mask(tmp_path / 'masks' / f'{index:05d}.png', torch.full((20, 30), index + 1))
    given = first_masks(tmp_path / 'masks', open_clip(folder))
    assert list(given) == [0, 2] and [ids.unique().tolist() for ids in given.values()] == [[1], [3]]


def test_masks_that_do_not_fit_are_named(folder, tmp_path):
    clip, masks = open_clip(folder), tmp_path / 'masks'
    masks.mkdir()
    with pytest.raises(ValueError, match='masks: no pictures'):
        first_masks(masks, clip)
    write_mask(masks / '00001.png', torch.ones(30, 20).long())
    for path in (masks, masks / '00001.png'):
        with pytest.raises(ValueError, match=r'00001\.png: expected 30x20 .* got 20x30'):
            first_masks(path, clip)
    write_mask(masks / '00001.png', torch.zeros(20, 30).long())
    for path in (masks, masks / '00001.png'):
        with pytest.raises(ValueError, match=r'00001\.png: expected the mask of an object'):
            first_masks(path, clip)
    write_mask(masks / '1.png', torch.ones(20, 30).long())
    with pytest.raises(
        ValueError, match=r'masks/1\.png: expected the name of a frame, such as 00000, got 1'
    ):
        first_masks(masks, clip)
    with pytest.raises(ValueError, match=r'nope\.png: cannot be read as a picture: No such file'):
        first_masks(masks / 'nope.png', clip)
    rgb().save(masks / 'rgb.png')
    with pytest.raises(ValueError, match=r'rgb\.png: .*of mode RGB'):
        first_masks(masks / 'rgb.png', clip)
    rgb().convert('L').save(masks / 'cut.png')
    with pytest.raises(ValueError, match=r'cut\.png: cannot be read'):
        first_masks(cut(masks / 'cut.png', 0.5), clip)


def test_a_mask_for_a_video_file(tmp_path):
    write_video(tmp_path / 'x.mp4', moving(3))
    (tmp_path / 'masks').mkdir()
    write_mask(tmp_path / 'masks' / '00002.png', torch.ones(32, 48).long())
    assert first_masks(tmp_path / 'masks', open_clip(tmp_path / 'x.mp4')).keys() == {2}


# ---- the shared data


def test_shared_data(data):
    ids = read_mask(data / 'DAVIS/Annotations-2017/480p/bmx-trees/00000.png')
    assert object_ids(ids) == [1, 2]
    assert object_ids(read_mask(data / 'DAVIS/Annotations/480p/blackswan/00000.png')) == [1]
    clip = open_clip(data / 'DAVIS/JPEGImages/480p/blackswan')
    assert (
        clip.size
        == (480, 854)
        == tuple(read_mask(data / 'DAVIS/Annotations/480p/blackswan/00000.png').shape)
    )


def test_both_kinds_of_clip_have_one_face():
    assert issubclass(video._VideoClip, Clip)
