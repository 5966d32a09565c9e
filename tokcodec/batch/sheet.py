"""A contact sheet: many images in one."""

from PIL import Image

from tokcodec.errors import Hint, ImageError

_GAP = 2  # pixels between images
_BACKGROUND = (255, 255, 255)


class Sheet:
    """Images in rows of ``columns``, each centred in a cell of the size of the largest one."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._images: list[Image.Image] = []
        self._pixels = 0

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: Image.Image) -> None:
        """Add an image; raises ImageError if all together have more pixels than Pillow opens."""
        self._pixels += image.width * image.height
        self._check(self._pixels)
        self._images.append(image)

    def compose(self) -> Image.Image:
        """Draw the sheet; raises ImageError if it has more pixels than Pillow opens."""
        width = max(image.width for image in self._images)
        height = max(image.height for image in self._images)
        columns = min(self._columns, len(self))
        rows = -(-len(self) // columns)
        size = columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP
        self._check(size[0] * size[1])
        sheet = Image.new("RGB", size, _BACKGROUND)
        for place, image in enumerate(self._images):
            row, column = divmod(place, columns)
            left = column * (width + _GAP) + (width - image.width) // 2
            top = row * (height + _GAP) + (height - image.height) // 2
            sheet.paste(image, (left, top))
        return sheet

    def _check(self, pixels: int) -> None:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and pixels > 2 * limit:
            raise ImageError(
                f"{len(self):,} images are more pixels than Pillow's decompression bomb limit",
                name="contact sheet",
                hint=Hint.SMALLER_SIZE,
            )
