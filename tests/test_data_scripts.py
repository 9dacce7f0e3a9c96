"Downloads that break off, archives that write elsewhere, trees with gaps, splits that stay."

import importlib.util
import io
import json
import os
import resource
import stat
import sys
import threading
import zipfile
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from eosvos.datasets import youtube_vos

SCRIPT = Path(__file__).resolve().parent.parent / 'data_scripts' / 'get_data.py'
spec = importlib.util.spec_from_file_location('get_data', SCRIPT)
get_data = importlib.util.module_from_spec(spec)
spec.loader.exec_module(get_data)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CONTENT = bytes(range(256)) * 40


# ---- downloads


class Handler(BaseHTTPRequestHandler):
    "Serves `server.content`, or its first `server.cut` bytes, and notes what was asked for."

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        if self.path != '/file.zip':
            return self.send_error(404)
        self.send_response(200)
        self.send_header('Content-Length', str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def running():
    pytest.importorskip('pooch', reason='the extra `data` is not installed')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f'http://127.0.0.1:{server.server_port}/file.zip'
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running):
    running.content, running.cut, running.asked = CONTENT, None, []
    return running


SUM = f'sha256:{sha256(CONTENT).hexdigest()}'


def test_a_download(server, tmp_path, capsys):
    path = tmp_path / 'deep/x.zip'
    get_data.download(server.url, path, f'md5:{md5(CONTENT).hexdigest()}')
    assert path.read_bytes() == CONTENT and os.listdir(path.parent) == ['x.zip']
    assert '100%' in capsys.readouterr().err, 'progress is shown'
    get_data.download(server.url, path, SUM)
    assert server.asked == ['/file.zip'], 'what is there is looked at, not fetched'


def test_a_file_without_a_published_checksum_is_described(server, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'pooch.core.get_logger', lambda: SimpleNamespace(info=lambda *a: said.append(a))
    )
    get_data.download(server.url, tmp_path / 'x.zip')
    assert (tmp_path / 'x.zip').read_bytes() == CONTENT and sha256(CONTENT).hexdigest() in said[-1]
    get_data.download(server.url, tmp_path / 'x.zip')
    assert len(server.asked) == 1


@pytest.mark.parametrize('cut', [1, 3000, len(CONTENT) - 1])
@pytest.mark.parametrize('expected', [None, SUM])
def test_an_interrupted_download_is_no_file(server, tmp_path, cut, expected):
    server.cut = cut
    with pytest.raises(ValueError, match=r'x\.zip: cannot be fetched from http.*file\.zip: '):
        get_data.download(server.url, tmp_path / 'x.zip', expected)
    assert os.listdir(tmp_path) == []
    server.cut = None
    get_data.download(server.url, tmp_path / 'x.zip', expected)
    assert (tmp_path / 'x.zip').read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_fetched_anew(server, tmp_path):
    server.content = CONTENT[::-1]
    got = sha256(CONTENT[::-1]).hexdigest()
    with pytest.raises(ValueError, match=rf'x\.zip: .*expected {SUM} but got {got}'):
        get_data.download(server.url, tmp_path / 'x.zip', SUM)
    assert os.listdir(tmp_path) == []
    server.content = CONTENT
    get_data.download(server.url, tmp_path / 'x.zip', SUM)
    assert (tmp_path / 'x.zip').read_bytes() == CONTENT


def test_another_file_that_is_there_is_named_and_stays(server, tmp_path):
    (tmp_path / 'y.zip').write_text('mine')
    got = sha256(b'mine').hexdigest()
    with pytest.raises(ValueError, match=rf'y\.zip: .*expected {SUM}, got {got}; move it away'):
        get_data.download(server.url, tmp_path / 'y.zip', SUM)
    assert (tmp_path / 'y.zip').read_text() == 'mine' and not server.asked


def test_a_full_disk_leaves_nothing(server, tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))  # fails as on a full disk
    try:
        with pytest.raises(ValueError, match=r'x\.zip: cannot be fetched from .*File too large'):
            get_data.download(server.url, tmp_path / 'x.zip', SUM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert os.listdir(tmp_path) == []


def test_a_server_that_has_no_such_file_or_is_not_there(server, tmp_path):
    with pytest.raises(ValueError, match=r'x\.zip: cannot be fetched from .*/other\.zip: .*404'):
        get_data.download(server.url.replace('file', 'other'), tmp_path / 'x.zip')
    with pytest.raises(ValueError, match='cannot be fetched from http://127.0.0.1:1/'):
        get_data.download('http://127.0.0.1:1/x.zip', tmp_path / 'x.zip')
    assert not os.listdir(tmp_path)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pooch', None)
    with pytest.raises(ValueError, match=r"downloads need pooch: pip install -e '\.\[data\]'"):
        get_data.download('http://127.0.0.1:1/x.zip', tmp_path / 'x.zip')


# ---- archives


def make_zip(path, members, mode=None):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo('x')
            info.filename = name  # as it is, without what ZipInfo would mend
            if mode:
                info.external_attr, info.create_system = mode << 16, 3
            archive.writestr(info, content)
    return path


def everything(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_unpacking(tmp_path):
    members = {'DAVIS/': '', 'DAVIS/ImageSets/2017/val.txt': 'goat\n', 'DAVIS/README.md': 'hello'}
    archive = make_zip(tmp_path / 'x.zip', members)
    assert get_data.unpack(archive, tmp_path / 'out') == 2
    assert everything(tmp_path / 'out') == {
        'ImageSets/2017/val.txt': b'goat\n',
        'README.md': b'hello',
    }
    assert get_data.unpack(archive, tmp_path / 'out') == 0
    (tmp_path / 'out/README.md').write_text('hellO')
    assert (
        get_data.unpack(archive, tmp_path / 'out') == 1
        and (tmp_path / 'out/README.md').read_text() == 'hello'
    )
    assert (
        get_data.unpack(
            make_zip(tmp_path / 'y.zip', {'train/meta.json': '{}', 'DAVIS/x': ''}),
            tmp_path / 'plain',
        )
        == 2
    )
    assert set(everything(tmp_path / 'plain')) == {'train/meta.json', 'DAVIS/x'}


@pytest.mark.parametrize(
    'name',
    [
        '../x',
        'a/../../x',
        '/tmp/x',
        'DAVIS/../../x',
        'C:x',
        'C:/x',
        '..\\x',
        'a\\..\\..\\x',
        '..',
        'a/..',
        'a\nb',
    ],
)
def test_members_that_would_leave_the_folder(tmp_path, name):
    archive = make_zip(tmp_path / 'x.zip', {'good': 'x', name: 'x'})
    with pytest.raises(ValueError, match=r'x\.zip: cannot be unpacked: member .* would leave'):
        get_data.unpack(archive, tmp_path / 'out')
    assert os.listdir(tmp_path) == ['x.zip']  # not even the good one


@pytest.mark.parametrize('kind', [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_an_archive(tmp_path, kind):
    archive = make_zip(tmp_path / 'x.zip', {'link': '/etc'}, kind | 0o777)
    with pytest.raises(
        ValueError, match="x.zip: cannot be unpacked: member 'link' is a link or a device"
    ):
        get_data.unpack(archive, tmp_path / 'out')
    assert os.listdir(tmp_path) == ['x.zip']


def test_links_that_stand_in_the_folder(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'mine.txt').write_text('mine')
    (tmp_path / 'out/a').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'out/b').symlink_to(tmp_path / 'mine.txt')
    with pytest.raises(ValueError, match='out/a leads out of'):
        get_data.unpack(make_zip(tmp_path / 'x.zip', {'a/x': 'x'}), tmp_path / 'out')
    get_data.unpack(make_zip(tmp_path / 'y.zip', {'b': 'mine'}), tmp_path / 'out')
    assert (
        not os.listdir(tmp_path / 'elsewhere')
        and not (tmp_path / 'out/b').is_symlink()
        and (tmp_path / 'mine.txt').read_text() == 'mine'
    )


def test_an_archive_that_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(get_data.shutil, 'disk_usage', lambda _: type('usage', (), dict(free=10)))
    with pytest.raises(
        ValueError, match='x.zip: cannot be unpacked: it needs 11 bytes, and .* has 10'
    ):
        get_data.unpack(make_zip(tmp_path / 'x.zip', {'a': 'x' * 11}), tmp_path / 'out')


WHOLE = io.BytesIO()
with zipfile.ZipFile(WHOLE, 'w', zipfile.ZIP_DEFLATED) as _archive:
    for _name in ('a/one.txt', 'a/two.txt', 'b.txt'):
        _archive.writestr(_name, CONTENT[:700])
WHOLE = WHOLE.getvalue()


@settings(quick, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6),
    keep=st.integers(0, len(WHOLE)),
)
def test_damaged_archives(changes, keep):
    damaged = bytearray(WHOLE)
    for place, value in changes:
        damaged[place] = value
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / 'x.zip').write_bytes(damaged if keep % 2 else damaged[:keep])
        try:
            get_data.unpack(folder / 'x.zip', folder / 'out/deep')
        except ValueError as error:
            assert 'x.zip: cannot be unpacked' in str(error)
        assert {path.name for path in folder.iterdir()} <= {'x.zip', 'out'} and set(
            os.listdir(folder / 'out') if (folder / 'out').exists() else []
        ) <= {'deep'}
        assert all(
            content in CONTENT[:700] for content in everything(folder / 'out').values()
        )  # whole, by its checksum, or not there


# ---- trees


def make_tree(root, names, frames=3):
    "DAVIS 2017 with a list of its two years."
    for place, suffix in (('JPEGImages', 'jpg'), ('Annotations', 'png')):
        for name in names:
            (root / place / '480p' / name).mkdir(parents=True)
            for i in range(frames):
                Image.new('L', (8, 6), 1).save(root / place / '480p' / name / f'{i:05d}.{suffix}')
    for year in ('2016', '2017'):
        (root / 'ImageSets' / year).mkdir(parents=True)
        (root / 'ImageSets' / year / 'val.txt').write_text('\n'.join(names))
    (root / 'ImageSets/2017/test-dev.txt').write_text('never-fetched\n')


def test_check_davis(tmp_path, monkeypatch, capsys):
    names = [f'goat{i}' for i in range(3)]
    make_tree(tmp_path, names)
    monkeypatch.setattr(get_data, 'COUNTS', {'2016/val': (3,), '2017/val': (2, 3)})
    assert get_data.check(tmp_path, read=True)
    assert (
        capsys.readouterr().out
        == '2016/val 480p: 3 sequences, 9 frames\n2017/val 480p: 3 sequences, 9 frames\n'
    )
    monkeypatch.setattr(get_data, 'COUNTS', {'2016/val': (20,)})
    assert not get_data.check(tmp_path)
    assert '  expected 20 sequences\n' in capsys.readouterr().out


def test_check_davis_by_a_list_with_a_byte_order_mark(tmp_path, monkeypatch, capsys):
    make_tree(tmp_path, ['goat'])
    monkeypatch.setattr(get_data, 'COUNTS', {})
    (tmp_path / 'ImageSets/2016/val.txt').unlink()
    (tmp_path / 'ImageSets/2017/val.txt').write_text('goat\r\n', 'utf-8-sig')
    assert get_data.check(tmp_path)
    assert capsys.readouterr().out == '2017/val 480p: 1 sequences, 3 frames\n'


def test_check_says_all_that_is_missing(tmp_path, monkeypatch, capsys):
    make_tree(tmp_path, [f'goat{i}' for i in range(3)])
    monkeypatch.setattr(get_data, 'COUNTS', {})
    (tmp_path / 'JPEGImages/480p/goat0/00001.jpg').unlink()
    (tmp_path / 'Annotations/480p/goat2/00002.png').unlink()
    broken = tmp_path / 'Annotations/480p/goat1/00000.png'
    broken.write_bytes(broken.read_bytes()[:40])
    assert not get_data.check(tmp_path)
    out = capsys.readouterr().out
    assert (
        'goat0/00001.png: this mask has no frame' in out
        and 'goat2: 1 of 3 frames have no mask here, the first is 00002' in out
        and 'goat1' not in out
    )
    for year in ('2016', '2017'):
        (tmp_path / f'ImageSets/{year}/val.txt').write_text('goat1\n')
    assert get_data.check(tmp_path) and not get_data.check(tmp_path, read=True)
    assert 'goat1/00000.png: cannot be read as a picture' in capsys.readouterr().out
    with pytest.raises(ValueError, match='found neither'):
        get_data.check(tmp_path / 'ImageSets')


def make_youtube(root, sequences):
    "The training set, with one frame a sequence; `sequences` gives the categories of its objects."
    for name in sequences:
        for place, suffix in (('JPEGImages', 'jpg'), ('Annotations', 'png')):
            (root / 'train' / place / name).mkdir(parents=True)
            (root / 'train' / place / name / f'00000.{suffix}').touch()
    videos = {
        name: {
            'objects': {
                str(k + 1): {'category': c, 'frames': ['00000']} for k, c in enumerate(some)
            }
        }
        for name, some in sequences.items()
    }
    (root / 'train/meta.json').write_text(json.dumps({'videos': videos}))


def test_split(tmp_path):
    sequences = {
        f's{i:02d}': ['person', 'ape'] if i % 7 == 0 else ['person'] if i % 2 else ['owl']
        for i in range(40)
    }
    make_youtube(tmp_path, sequences)
    lists = {
        file.stem: file.read_text().split() for file in get_data.split(tmp_path, 123, 10).iterdir()
    }
    assert {key: len(names) for key, names in lists.items()} == {
        'val': 10,
        'train-val': 10,
        'train': 20,
    }
    assert sorted(sum(lists.values(), [])) == sorted(sequences)
    held = [sequences[name] for name in lists['val']]
    assert all(
        any(c in some for some in held) for c in ('person', 'ape', 'owl')
    )  # a round covers every category
    names = {s.name for s in youtube_vos(tmp_path, 'train')}
    assert len(set(lists['val'])) == len(lists['val']) and names.issuperset(lists['val'])


def test_a_split_depends_on_the_seed_alone(tmp_path):
    sequences = {f's{i:02d}': [['person'], ['owl'], ['ape', 'owl']][i % 3] for i in range(60)}
    make_youtube(tmp_path / 'a', sequences)
    make_youtube(tmp_path / 'b', dict(reversed(sequences.items())))

    def read(root, seed):
        return everything(get_data.split(tmp_path / root, seed, 10))

    assert read('a', 1) == read('b', 1) == read('a', 1) != read('a', 2)
    with pytest.raises(ValueError, match='at most 60 sequences to hold out, got 61'):
        get_data.split(tmp_path / 'a', 1, 61)


def test_the_split_of_a_seed_stays():
    "Results with these lists are published; a change here breaks their comparison."
    assert get_data.hold_out({f's{i}': {'abc'[i % 3]} for i in range(12)}, 4, 123, 'val') == [
        's4',
        's5',
        's6',
        's9',
    ]


def test_rounds_go_over_categories_by_frequency():
    categories = {
        'a': {'ape'},
        'b': {'ape'},
        'c': {'ape'},
        'd': {'owl'},
        'e': {'owl'},
        'f': {'cat'},
    }
    for seed in range(5):
        two = get_data.hold_out(categories, 2, seed, 'val')
        assert len(set(two) & {'a', 'b', 'c'}) == 1 and len(set(two) & {'d', 'e'}) == 1
        assert 'f' in get_data.hold_out(categories, 3, seed, 'val')
    assert get_data.hold_out(categories, 6, 0, 'val') == list('abcdef')
    with pytest.raises(ValueError, match='at most 1 .*got 2'):
        get_data.hold_out({'a': {'ape'}, 'b': set()}, 2, 0, 'val')


# ---- the command


def test_youtube_vos_without_archives_says_where_to_register(tmp_path, capsys):
    assert not get_data.main(['youtube-vos', '--root', str(tmp_path)])
    assert 'youtube-vos.org' in capsys.readouterr().out and not os.listdir(tmp_path)


def test_the_whole_way(server, tmp_path, monkeypatch, capsys):
    make_tree(tmp_path / 'DAVIS', ['goat'])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for path in sorted((tmp_path / 'DAVIS').rglob('*')):
            archive.write(path, path.relative_to(tmp_path))
    server.content = buffer.getvalue()
    monkeypatch.setattr(
        get_data,
        'DAVIS',
        {
            '2016': (),
            'trainval-480p': (server.url, f'sha256:{sha256(server.content).hexdigest()}'),
        },
    )
    monkeypatch.setattr(get_data, 'COUNTS', {})
    server.cut = 2000
    arguments = ['davis', '--root', str(tmp_path / 'out'), 'trainval-480p']
    with pytest.raises(ValueError, match='cannot be fetched'):
        get_data.main(arguments)
    server.cut = None
    assert (
        get_data.main(arguments)
        and '2017/val 480p: 1 sequences, 3 frames' in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match='a --root of its own'):
        get_data.main([*arguments, '2016'])
    with pytest.raises(SystemExit):
        get_data.main(['davis', '--root', 'x', '2018'])
