# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import base64
import contextlib
import io
import json
import pickle

import numpy as np
import pytest

msgpack = pytest.importorskip("msgpack")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gr00t_training.errors import ServerError  # noqa: E402
from gr00t_training.serve.images import ImageForm, decode_images, encode_images  # noqa: E402
from gr00t_training.serve.wire import EncodedImages, ModalityConfig, Wire, pack, unpack  # noqa: E402

BOTH = pytest.mark.parametrize("wire", list(Wire))


@pytest.fixture(scope="module")
def n1_5_messages(fixtures_dir):
    content = json.loads((fixtures_dir / "transforms_generic/zmq_msgpack_messages_base64.json").read_text())
    return {name: base64.b64decode(text) for name, text in content.items()}


@pytest.fixture(scope="module")
def n1_7_messages(fixtures_dir):
    exchanges = json.loads((fixtures_dir / "n1_7_protocol/exchanges.json").read_text())["exchanges"]
    return {
        f"{exchange['case']}.{side}": bytes.fromhex(exchange[f"{side}_hex"])
        for exchange in exchanges
        for side in ("request", "reply")
    }


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_n1_5_messages_byte_for_byte(n1_5_messages):
    request = {
        "endpoint": "get_action",
        "data": {
            "video.ego_view": np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3),
            "state.left_arm": np.linspace(-1, 1, 7)[None],
            "annotation.human.action.task_description": ["do it"],
        },
    }
    made = {
        "get_action_request": request,
        "ping_request": {"endpoint": "ping"},
        "ping_response": {"status": "ok", "message": "Server is running"},
        "modality_config_response": {"video": ModalityConfig((0,), ("video.ego_view",))},
        "get_action_response": {"action.left_arm": np.arange(14, dtype=np.float32).reshape(2, 7)},
        "error_response": {"error": "Unknown endpoint: foo"},
        "unauthorized_response": {"error": "Unauthorized: Invalid API token"},
    }
    assert set(made) == set(n1_5_messages) - {"get_action_request_with_token"}
    assert {name: pack(content, Wire.N1_5) for name, content in made.items()} == {
        name: n1_5_messages[name] for name in made
    }
    with_token = unpack(n1_5_messages["get_action_request_with_token"])[0]
    assert (
        pack({**request, "api_token": with_token["api_token"]}, Wire.N1_5)
        == (n1_5_messages["get_action_request_with_token"])
    )
    for message in n1_5_messages.values():
        content, wire = unpack(message)
        assert wire in (Wire.N1_5, None)
        assert pack(content, Wire.N1_5) == message


def test_n1_7_messages_byte_for_byte(n1_7_messages):
    forms = {}
    for name, message in n1_7_messages.items():
        content, forms[name] = unpack(message)
        assert pack(content, Wire.N1_7) == message
    assert {name for name, wire in forms.items() if wire is Wire.N1_7} == {
        "get_modality_config.reply",
        "get_action.request",
        "get_action.reply",
        "default_endpoint_is_get_action.request",
        "default_endpoint_is_get_action.reply",
    }
    assert set(forms.values()) == {Wire.N1_7, None}
    request = unpack(n1_7_messages["get_action.request"])[0]["data"]["observation"]
    np.testing.assert_array_equal(request["video"]["front"], np.arange(12, dtype=np.uint8).reshape(1, 1, 2, 2, 3))
    np.testing.assert_array_equal(request["state"]["arm"], np.array([[[0.5, 1.0, -0.25]]], np.float32))
    actions = {"arm": np.arange(6, dtype=np.float32).reshape(1, 2, 3) + np.float32(1.25)}
    assert pack([actions, {}], Wire.N1_7) == n1_7_messages["get_action.reply"]
    action = unpack(n1_7_messages["get_modality_config.reply"])[0]["action"]
    assert (action.delta_indices, action.modality_keys) == ((0, 1), ("arm",))
    assert action.action_configs == ({"rep": "RELATIVE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None},)


ARRAYS = {
    "images": np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3),
    "float32": np.linspace(0, 1, 7, dtype=np.float32),
    "big endian": np.arange(3, dtype=">i4"),
    "bool": np.array([[True, False]]),
    "half": np.array([1.5, np.inf], np.float16),
    "no axes": np.array(3.25),
    "empty": np.zeros((0, 3)),
    "text": np.array(["do it", "né"]),
    "bytes": np.array([b"ab", b"c"]),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(20.0).reshape(4, 5)[::2, ::-2],
}


@BOTH
@pytest.mark.parametrize("name", list(ARRAYS))
def test_arrays_come_back_equal_and_read_only(wire, name):
    array = ARRAYS[name]
    found, seen = unpack(pack({"x": array}, wire))
    assert seen is wire
    assert found["x"].dtype == array.dtype
    assert found["x"].shape == array.shape
    np.testing.assert_array_equal(found["x"], array)
    assert not found["x"].flags.writeable and not found["x"].flags.owndata  # a view of the message


def test_npy_files_are_those_of_numpy():
    for array in ARRAYS.values():
        assert unpack(pack(array, Wire.N1_5))[0].tobytes() == array.tobytes()
        assert msgpack.unpackb(pack(array, Wire.N1_5))["as_npy"] == npy(array)
    second = io.BytesIO()
    np.lib.format.write_array(second, ARRAYS["float32"], version=(2, 0))
    found = unpack(msgpack.packb({"__ndarray_class__": True, "as_npy": second.getvalue()}))[0]
    np.testing.assert_array_equal(found, ARRAYS["float32"])


def test_single_numbers_of_n1_7():
    message = msgpack.packb({b"nd": False, b"type": "<f4", b"data": np.float32(2.5).tobytes()})
    assert unpack(message)[0] == 2.5


class Trap:
    """Unpickling it would end the test."""

    def __reduce__(self):
        return (pytest.exit, ("a pickle was loaded",))


OBJECTS = np.array([Trap(), None], dtype=object)
RECORDS = np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")])


@BOTH
@pytest.mark.parametrize("array", [OBJECTS, RECORDS, np.zeros(2, "datetime64[s]"), np.zeros(2, complex)])
def test_other_arrays_are_not_sent(wire, array):
    with pytest.raises(ServerError, match="cannot be sent"):
        pack({"x": array}, wire)


def test_unknown_objects_are_not_sent():
    with pytest.raises(ServerError, match="Trap: cannot be sent"):
        pack({"x": Trap()}, Wire.N1_7)


def numpy_map(**changes):
    content = {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [2], b"data": bytes(8)}
    return {**content, **{name.encode(): value for name, value in changes.items()}}


def npy_map(file):
    return {"__ndarray_class__": True, "as_npy": file}


GOOD_NPY = npy(np.zeros(2, np.float32))
MALFORMED = {
    "pickled objects of N1.7": (numpy_map(kind=b"O", type="|O", data=pickle.dumps(OBJECTS)), "kind b'O' is refused"),
    "objects without a kind": (numpy_map(type="|O8"), "never objects"),
    "records of N1.7": (numpy_map(kind=b"V", type=[["a", "<f4"]]), "kind b'V' is refused"),
    "list of types": (numpy_map(type=["<f4"]), "'type' is list, expected str"),
    "several types": (numpy_map(type="<f4,<f4"), "'<f4,<f4' is refused"),
    "no such width": (numpy_map(type="<f3"), "'<f3' is refused"),
    "no bytes at all": (numpy_map(type="|S0"), r"'\|S0' is refused"),
    "too few bytes": (numpy_map(shape=[3]), r"found 8 bytes, <f4 \(3,\) has 12"),
    "negative": (numpy_map(shape=[-2]), r"shape \[-2\] is refused"),
    "gigantic": (numpy_map(shape=[2**40] * 3), "is refused"),
    "too many axes": (numpy_map(shape=[1] * 33), "is refused"),
    "fractions": (numpy_map(shape=[2.0]), "is refused"),
    "no shape": (numpy_map(shape=None), "'shape' is NoneType, expected list"),
    "text for bytes": (numpy_map(data="ab"), "'data' is str, expected bytes"),
    "pickled objects of N1.5": (npy_map(npy(OBJECTS, allow_pickle=True)), r"'\|O' is refused"),
    "records of N1.5": (npy_map(npy(RECORDS)), "no plain descr"),
    "no file": (npy_map(b"pickle"), "not a .npy file"),
    "version 3": (npy_map(GOOD_NPY[:6] + b"\x03\x00" + GOOD_NPY[8:]), "not a .npy file of version 1 or 2"),
    "header cut short": (npy_map(GOOD_NPY[:40]), "truncated"),
    "file cut short": (npy_map(GOOD_NPY[:-1]), "found 7 bytes"),
    "code in the header": (npy_map(GOOD_NPY.replace(b"(2,)", b"(__import__('os'),)")), "no plain shape"),
    "no file text": (npy_map("x"), "'as_npy' is str, expected bytes"),
    "config without keys": ({"__ModalityConfig__": True, "as_json": {"delta_indices": [0]}}, "'modality_keys' is"),
    "config of fractions": (
        {"__ModalityConfig__": True, "as_json": {"delta_indices": [0.5], "modality_keys": []}},
        "whole numbers",
    ),
    "config that is no JSON": ({"__ModalityConfig_class__": True, "as_json": "{"}, "not JSON"),
    "config that is a list": ({"__ModalityConfig_class__": True, "as_json": "[]"}, "found list"),
    "nested config": ({"__ModalityConfig_class__": True, "as_json": "[" * 60_000}, "not JSON"),
    "files of another number": ({"__jpeg__": True, "shape": [2, 4, 4, 3], "files": [b""]}, "1 files"),
    "images of another shape": ({"__jpeg__": True, "shape": [4, 4], "files": []}, "expected .*H, W, 3"),
    "two forms": ([numpy_map(), npy_map(GOOD_NPY)], "in the format of n1.5, expected n1.7"),
    "extension": (msgpack.ExtType(5, b"x"), "an extension type"),
}


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_values_are_refused(name):
    content, words = MALFORMED[name]
    with pytest.raises(ServerError, match=words):
        unpack(msgpack.packb({"data": content}))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x80\x80",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x90\x00",
        b"\x81\x01\x00",
        b"\xa1\xff",
        b"ERROR",
        b"GET / HTTP/1.1\r\n\r\n",
        pickle.dumps({"endpoint": "ping"}),
    ],
)
def test_what_is_no_msgpack_is_refused(message):
    with pytest.raises(ServerError, match=f"message of {len(message)} bytes: not msgpack"):
        unpack(message)


def test_limits():
    with pytest.raises(ServerError, match=r"message of 1001 bytes \(limit 1000\)"):
        unpack(bytes(1001), max_bytes=1000)
    for content, words in (
        ([0] * 5000, "a list of 5000 items, limit 4096"),
        ({str(i): 0 for i in range(2000)}, "a map of 2000 items, limit 1024"),
        ("x" * (2**16 + 1), "a text of 65537 bytes, limit 65536"),
        ([[{}] * 4000] * 3, "more than 10000 values"),
    ):
        with pytest.raises(ServerError, match=words):
            unpack(msgpack.packb(content))
    with pytest.raises(ServerError, match="nested deeper than 16 levels"):
        unpack(b"\x91" * 17 + b"\xc0")


def test_one_form_only_where_that_is_asked():
    message = pack({"x": np.zeros(2)}, Wire.N1_5)
    assert unpack(message, Wire.N1_5)[1] is Wire.N1_5
    with pytest.raises(ServerError, match=r"in the format of n1\.5, expected n1\.7"):
        unpack(message, Wire.N1_7)
    assert unpack(pack({"endpoint": "ping"}, Wire.N1_5), Wire.N1_7)[0] == {"endpoint": "ping"}


def test_every_cut_is_noticed(n1_5_messages, n1_7_messages):
    for message in (n1_5_messages["get_action_request"], n1_7_messages["get_action.request"]):
        for end in range(len(message)):
            with pytest.raises(ServerError):
                unpack(message[:end])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_never_ends_in_another_error(data):
    good = data.draw(
        st.sampled_from(
            [pack({"x": ARRAYS["images"], "y": ModalityConfig((0,), ("a",))}, wire) for wire in Wire]
            + [pack({"x": EncodedImages((1, 2, 2, 3), (b"file",))}, Wire.N1_7)]
        )
    )
    message = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    for frame in (bytes(message), data.draw(st.binary(max_size=60))):
        with contextlib.suppress(ServerError):
            unpack(frame)


def test_images_as_files():
    pytest.importorskip("cv2")
    rows, columns = np.mgrid[:32, :48].astype(np.uint8)
    smooth = np.stack([np.stack([5 * rows, 5 * columns, 255 - 5 * rows], -1)] * 2)[None]  # (1, 2, 32, 48, 3)
    for form, tolerance in ((ImageForm.PNG, 0), (ImageForm.JPEG, 8)):
        encoded = encode_images(smooth, form)
        assert isinstance(encoded, EncodedImages) and len(encoded.files) == 2
        received = unpack(pack({"x": encoded}, Wire.N1_7))[0]["x"]
        assert received == encoded
        found = decode_images(received, "video.front")
        assert np.abs(found.astype(int) - smooth).max() <= tolerance
    assert encode_images(smooth, ImageForm.RAW) is smooth
    for file in (b"", b"no image", encoded.files[0][:30]):
        with pytest.raises(ServerError, match=r"video\.front: file 0 is no"):
            decode_images(EncodedImages((1, 32, 48, 3), (file,)), "video.front")
    with pytest.raises(ServerError, match=r"shape \(32, 48, 3\), expected shape \(32, 50, 3\)"):
        decode_images(EncodedImages((1, 32, 50, 3), encoded.files[:1]), "video.front")
