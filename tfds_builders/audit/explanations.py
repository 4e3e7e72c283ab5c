"""What each code of an audit means and what to do about it, for the forms of an audit that people read."""

import re
from collections.abc import Mapping
from typing import Final

from dataflow.findings import Code

MEANINGS: Final[Mapping[Code, str]] = {
    Code.IMAGE_MISSING: "The annotations name an image file that is not there.",
    Code.IMAGE_EMPTY: "The image file has no bytes.",
    Code.IMAGE_UNREADABLE: "The image file cannot be read, or its pixels cannot be decoded.",
    Code.IMAGE_TRUNCATED: "The image file ends before its pixels do.",
    Code.IMAGE_UNSUPPORTED: "Readers of prepared datasets decode this kind of image differently, or not at all.",
    Code.IMAGE_TYPE: "The content of the file is of another image type than its extension says.",
    Code.IMAGE_OUTSIDE_ROOT: "The path leads out of the source, by a link or by dots, and was not followed.",
    Code.EXIF_ORIENTATION: "The pixels are stored turned or mirrored, and an EXIF tag says how to show them upright.",
    Code.SIZE_MISMATCH: "The annotations give the image another size than the file has.",
    Code.DUPLICATE_ID: "Several images have the same id, so that nothing says which one an annotation belongs to.",
    Code.LISTED_TWICE: "The same image is listed more than once.",
    Code.DUPLICATE_CONTENT: "Files under different names hold the same bytes.",
    Code.NEAR_DUPLICATE: "Images look almost alike, by a hash of what they show, and are in different splits.",
    Code.LABEL_MISSING: "The image has no annotations at all, which is not the same as having no objects.",
    Code.LABEL_EMPTY: "The annotations of the image are there and empty, so that it counts as pure background.",
    Code.LABEL_WITHOUT_IMAGE: "There are annotations for an image that the source does not have.",
    Code.LABEL_MALFORMED: "An annotation does not have the form that its format asks for.",
    Code.OBJECT_TWICE: "The same object is annotated more than once in one image.",
    Code.IGNORE_REGION: "The region is a crowd or marked to be ignored, and counts neither as found nor as missed.",
    Code.LABEL_CORRECTED: "An annotation was changed, deleted or added by a list of corrections; the source was not.",
    Code.LABEL_SUSPECT: "A person marked the annotation as wrong and did not say what would be right.",
    Code.IMAGE_EXCLUDED: "A list of corrections keeps the image out.",
    Code.CORRECTION_STALE: "A correction is of an object or image that is not there, and was not applied.",
    Code.CLASS_UNKNOWN: "An annotation has a class that the list of classes does not have.",
    Code.CLASS_UNUSED: "A class of the list has no object in the whole source.",
    Code.CLASS_NAMED_TWICE: "Two classes have the same name.",
    Code.CLASS_IDS_SHIFTED: "The class ids look shifted by one, as if counted from 1 instead of from 0 or the reverse.",
    Code.BOX_NOT_FINITE: "A box has a number that is infinite, too large or not a number.",
    Code.BOX_EMPTY: "A box has no area, or its corners are the wrong way round.",
    Code.BOX_OUTSIDE: "A box leaves the image by more than rounding explains.",
    Code.BOX_CLIPPED: "A box left the image a little and was cut at its border.",
    Code.BOX_UNITS: "Boxes look like pixels where fractions of the image are expected, or the reverse.",
    Code.BOX_TURNED: "Boxes do not fit the upright image but fit it turned: they were drawn on the pixels as stored.",
    Code.BOX_ABSURD: "A box is so thin, so small or so large that it hardly is around an object.",
    Code.PAIR_UNALIGNED: "How the camera moved between the two frames could not be established.",
    Code.SPLIT_MISSING: "A split that is named is not there, or images belong to no split.",
    Code.SPLIT_LEAK: "Images of one scene are in several splits, so that a model is tested on what it has seen.",
    Code.SPLIT_UNBALANCED: "A class has objects in the source but none in one of the splits.",
}
"""One sentence for each code: what was found."""

REMEDIES: Final[Mapping[Code, str]] = {
    Code.IMAGE_MISSING: "Restore the file, correct its name in the annotations, or drop them.",
    Code.IMAGE_EMPTY: "Copy the file again from where it came.",
    Code.IMAGE_UNREADABLE: "Open it in an image viewer: replace it where that fails too, and check its permissions.",
    Code.IMAGE_TRUNCATED: "Copy or download the file again; a transfer was probably cut short.",
    Code.IMAGE_UNSUPPORTED: "Convert it to JPEG or PNG of 8 bits without alpha, keeping its size.",
    Code.IMAGE_TYPE: "Rename the file after its content, or convert it.",
    Code.IMAGE_OUTSIDE_ROOT: "Copy the file into the source, or give a folder further up as the source.",
    Code.EXIF_ORIENTATION: "Look at the picture: the boxes should fit what it shows upright.",
    Code.SIZE_MISMATCH: "Find out whether the boxes were drawn on this very file; a resized copy needs them rescaled.",
    Code.DUPLICATE_ID: "Give every image an id or a name of its own.",
    Code.LISTED_TWICE: "Take all but one out of the list.",
    Code.DUPLICATE_CONTENT: "Keep one of them, or at least all in the same split.",
    Code.NEAR_DUPLICATE: "Put them into the same split: give them one scene, or a common prefix that tells the scene.",
    Code.LABEL_MISSING: "Annotate the image; an image known to have no objects gets empty annotations.",
    Code.LABEL_EMPTY: "Check that there is really nothing in it.",
    Code.LABEL_WITHOUT_IMAGE: "Restore the image, or drop the annotations.",
    Code.LABEL_MALFORMED: "Correct the line; often another tool wrote it, for another format.",
    Code.OBJECT_TWICE: "Keep one of the two annotations.",
    Code.IGNORE_REGION: "Nothing, unless the object should be learnt from: then clear its mark.",
    Code.LABEL_CORRECTED: "Nothing; correct the source as well where others use it.",
    Code.LABEL_SUSPECT: "Look at it, and correct it in FiftyOne or in the source.",
    Code.IMAGE_EXCLUDED: "Nothing; take the line out of the list to have the image back.",
    Code.CORRECTION_STALE: "Export the tags again from the dataset as it is now, or take the line out of the list.",
    Code.CLASS_UNKNOWN: "Add the class to the list, or correct the annotation.",
    Code.CLASS_UNUSED: "Nothing, or drop the class from the list.",
    Code.CLASS_NAMED_TWICE: "Rename one of them, or merge the two.",
    Code.CLASS_IDS_SHIFTED: "Look at some pictures with their class names, and count as the format asks for.",
    Code.BOX_NOT_FINITE: "Draw the box again, or drop it.",
    Code.BOX_EMPTY: "Draw the box again, or drop it.",
    Code.BOX_OUTSIDE: "Check the units and the image size first; then cut the box at the border, by hand or by repair.",
    Code.BOX_CLIPPED: "Nothing.",
    Code.BOX_UNITS: "Convert the boxes, or export them again in the units of the format.",
    Code.BOX_TURNED: "Annotate with a tool that applies EXIF orientation, or say how it is to be read.",
    Code.BOX_ABSURD: "Look at it; a slip of the mouse makes such boxes.",
    Code.PAIR_UNALIGNED: "Check that both frames show one scene; for a steady camera, diff with --align none.",
    Code.SPLIT_MISSING: "Correct the name, or list the images.",
    Code.SPLIT_LEAK: "Put all images of the scene into one split, or let the splits be made by scene.",
    Code.SPLIT_UNBALANCED: "Give the split scenes with this class; its figures would say nothing about it.",
}
"""What to do about each code in general; a finding's own remedy says it for its case."""

# What is invisible, breaks lines, turns the direction of text round or is no character: it could hide what a name is.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def legible(text: str, limit: int) -> str:
    """`text` with every invisible character as an escape, and its middle left out where it is longer than `limit`."""
    if len(text) > limit:
        head = limit * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"
    return _INVISIBLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)
