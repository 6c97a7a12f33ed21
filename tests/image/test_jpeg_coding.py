"""A JPEG that was a JPEG is coded as it was: as large, as fine, and no finer."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image
from support.images import opened, read, round_trip, saved

from varfix.engine.image.decoded_image import replace_pixels
from varfix.engine.image.writer import encode_image, encode_image_bytes
from varfix.engine.settings.types import OutputSettings

SOURCE = OutputSettings()


def textured(size=(96, 64), seed=0):
    """An image with noise on a gradient, which takes some bytes, but not all."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(30, 200, size[0])[None, :, None] + rng.normal(0, 12, (*size[::-1], 3))
    return Image.fromarray(ramp.clip(0, 255).astype(np.uint8))


def restored(data, options=SOURCE):
    """What is written of an image whose pixels a model has changed a little."""
    image = read(data)
    return encode_image_bytes(replace_pixels(image, image.pixels * 0.98), "keep", options)


def denoised(data):
    """What is written of an image whose noise a model has removed."""
    image = read(data)
    smooth = np.broadcast_to(image.pixels.mean(0, keepdims=True), image.pixels.shape)
    return encode_image_bytes(replace_pixels(image, smooth), "keep", SOURCE)


def steps(data):
    """Mean quantization step of luma."""
    return np.mean(opened(data).quantization[0])


def sampling(data):
    return {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}[opened(data).layer[0][1:3]]


@pytest.mark.parametrize("quality", [40, 75, 90, 97])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_an_unchanged_image_is_coded_with_the_same_tables(quality, subsampling, progressive):
    data = saved(
        textured(), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive
    )
    result = round_trip(data)
    assert opened(result).quantization == opened(data).quantization
    assert sampling(result) == subsampling
    assert bool(opened(result).info.get("progressive")) is progressive
    assert len(result) < 1.05 * len(data)


@pytest.mark.parametrize("quality", [30, 75, 89])
def test_a_restored_image_has_quality_90_if_it_does_not_grow(quality):
    data = saved(textured(), "JPEG", quality=quality, subsampling="4:2:0")
    result = denoised(data)
    assert opened(result).quantization == opened(saved(textured(), "JPEG", quality=90)).quantization
    assert sampling(result) == "4:2:0"
    assert len(result) < len(data)


@pytest.mark.parametrize("quality", [62, 70, 75, 80, 85])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_restored_image_is_as_fine_as_the_size_of_its_source_permits(quality, progressive):
    data = saved(textured((384, 256)), "JPEG", quality=quality, progressive=progressive)
    result = restored(data)
    assert len(result) <= 1.05 * len(data)
    assert steps(saved(textured(), "JPEG", quality=90)) < steps(result) <= steps(data)
    coded = [
        len(saved(opened(result), "JPEG", qtables=opened(result).quantization, optimize=True))
        for result in (result, data)
    ]
    assert coded[0] > 0.9 * coded[1]


def test_a_restored_image_has_quality_60_at_least():
    image = read(saved(textured(), "JPEG", quality=10))
    detailed = np.asarray(textured(), np.float32) / 255
    result = encode_image_bytes(replace_pixels(image, detailed), "keep", SOURCE)
    assert opened(result).quantization == opened(saved(textured(), "JPEG", quality=60)).quantization


def test_metadata_and_appended_images_give_no_room_to_the_pixels():
    exif = Image.Exif()
    exif[0x9286] = "long" * 10_000
    plain, heavy = (saved(textured(), "JPEG", quality=75, exif=given) for given in (b"", exif))
    assert len(heavy) > 3 * len(plain)
    assert opened(restored(heavy + plain)).quantization == opened(restored(plain)).quantization


@pytest.mark.parametrize("quality", [91, 95, 98])
def test_a_restored_image_keeps_a_better_quality(quality):
    data = saved(textured(), "JPEG", quality=quality)
    assert opened(restored(data)).quantization == opened(data).quantization


def test_gray_stays_gray_with_its_table():
    data = saved(textured().convert("L"), "JPEG", quality=93)
    result = opened(round_trip(data))
    assert result.mode == "L"
    assert result.quantization == opened(data).quantization


def test_tables_are_turned_with_the_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    table = list(range(1, 65))
    image = textured()
    data = saved(image, "JPEG", qtables=[table, table], subsampling=0, exif=exif)
    turned = np.array(opened(data).quantization[0]).reshape(8, 8).T.ravel().tolist()
    result = opened(round_trip(data))
    assert result.size == (64, 96)
    assert result.quantization[0] == turned


def test_a_turned_subsampling_that_cannot_be_written_is_not_made_coarser():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = saved(textured(), "JPEG", subsampling="4:2:2", exif=exif)
    assert sampling(round_trip(data)) == "4:4:4"


def test_inks_keep_their_table():
    image = Image.merge("CMYK", [textured(seed=n).convert("L") for n in range(4)])
    data = saved(image, "JPEG", quality=92)
    result = opened(round_trip(data))
    assert result.mode == "CMYK"
    assert result.quantization[0] == opened(data).quantization[0]


def test_colors_stored_as_rgb_get_the_quality_of_other_formats():
    data = saved(textured(), "JPEG", quality=50, keep_rgb=True)
    assert (
        opened(round_trip(data)).quantization
        == opened(saved(textured(), "JPEG", quality=95)).quantization
    )


def test_a_number_is_that_quality_without_subsampling():
    data = saved(textured(), "JPEG", quality=60, subsampling="4:2:0")
    result = round_trip(data, options=OutputSettings(jpeg_quality=80))
    assert opened(result).quantization == opened(saved(textured(), "JPEG", quality=80)).quantization
    assert sampling(result) == "4:4:4"


def test_other_formats_become_jpegs_of_quality_95():
    result = round_trip(saved(textured(), "PNG"), "jpg")
    assert opened(result).quantization == opened(saved(textured(), "JPEG", quality=95)).quantization
    assert sampling(result) == "4:4:4"


def test_without_metadata_the_coding_stays():
    data = saved(textured(), "JPEG", quality=92, subsampling="4:2:0")
    result = round_trip(data, options=OutputSettings(metadata="none"))
    assert opened(result).quantization == opened(data).quantization


def test_noise_that_takes_more_than_the_encoder_has_room_for_is_written():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    data = saved(Image.fromarray(noise), "JPEG", qtables=[[1] * 64], subsampling=0)
    assert len(data) > 2 * 256 * 256
    assert opened(round_trip(data)).quantization[0] == [1] * 64


def seen(data, tmp_path, *command):
    path = tmp_path / "seen.jpg"
    path.write_bytes(data)
    try:
        found = subprocess.run([*command, str(path)], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    return found.stdout.decode().strip()


@pytest.mark.parametrize("quality", [75, 90, 96])
def test_imagemagick_sees_quality_and_subsampling(quality, tmp_path):
    data = saved(textured(), "JPEG", quality=quality, subsampling="4:2:2")
    ask = ("identify", "-format", "%Q %[jpeg:sampling-factor]")
    assert seen(round_trip(data), tmp_path, *ask) == f"{quality} 2x1,1x1,1x1"
    assert seen(denoised(data), tmp_path, *ask) == f"{max(quality, 90)} 2x1,1x1,1x1"


def test_exiftool_sees_subsampling_and_process(tmp_path):
    data = saved(textured(), "JPEG", quality=80, subsampling="4:2:0", progressive=True)
    ask = ("exiftool", "-s3", "-YCbCrSubSampling", "-EncodingProcess")
    assert seen(restored(data), tmp_path, *ask) == seen(data, tmp_path, *ask)


def test_lossless_webp_stays_lossless():
    data = saved(textured(), "WEBP", lossless=True)
    assert np.array_equal(np.asarray(opened(round_trip(data))), np.asarray(opened(data)))


def test_a_lossless_avif_is_stored_as_well_as_the_encoder_can():
    # Pillow writes no RGB matrix; its code in the color box is made that of RGB.
    data = saved(Image.new("RGB", (32, 32), (90, 90, 90)), "AVIF", subsampling="4:4:4")
    at = data.index(b"nclx")
    stated = data[: at + 8] + b"\x00\x00" + data[at + 10 :]
    image = read(stated)
    assert image.info.lossless
    encoded = encode_image(image, "keep", SOURCE)
    assert any("lossless AVIF" in text for text in encoded.warnings)
    before = np.asarray(Image.open(io.BytesIO(stated)).convert("RGB")).astype(int)
    assert np.abs(np.asarray(opened(encoded.data).convert("RGB")) - before).max() <= 3
