"""One video before it is drawn: head, hair and clothes as painted meshes, the light, the backdrop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from safa.config.synthetic import SyntheticConfig
from safa.head import builtin
from safa.head.model import HeadCode, HeadModel
from safa.synthetic.backdrop import paint_backdrop
from safa.synthetic.clothes import build_bust
from safa.synthetic.hair import Skull, coverage, grow_hair
from safa.synthetic.painted_mesh import Faces, Field, PaintedMesh, Points, join, paint_head
from safa.synthetic.people import Light, Person, sample_light, sample_outfit, sample_person
from safa.synthetic.performance import FaceFrame, perform
from safa.synthetic.truth import Spans, Track, clip_spans

_ROOT = 0  # joint
_HIDDEN = 0.97  # cover of hair that nothing shows through
_NECK_BAND = 0.012  # metres above and below the pivot: the neck there is nearly a cylinder


@dataclass(frozen=True)
class Scene:
    """Everything ``render`` needs, and the track that moves it.

    Attributes:
        spans: which parts of the video are clips.
        faces: (F, 3) the head model's own faces that are drawn.
        colours, gloss: (V, 3) linear RGB and (V,) of the head model's own vertices.
        attached: hair and clothes at rest, in the head's metres.
        pivot: (3,) the head's root joint, about which head and body turn.
        backdrop: (H, W, 3) sRGB float32.
    """

    track: Track
    spans: Spans
    faces: Faces
    colours: Field
    gloss: Field
    attached: PaintedMesh
    pivot: Points
    light: Light
    backdrop: NDArray[np.float32]


@cache
def head_model() -> HeadModel:
    """The built-in head, once per process."""
    return HeadModel(builtin.build().assets).eval()


def _at_rest(person: Person) -> tuple[Points, Points, Points]:
    """Vertices (V, 3), landmarks (68, 3) and joints (5, 3) of the person's unposed head."""
    model = head_model()
    zero = torch.zeros(1, 3)
    code = HeadCode(
        torch.from_numpy(person.shape)[None],
        torch.zeros(1, 50),
        zero,
        zero,
        torch.ones(1, 1),
        torch.zeros(1, 2),
    )
    with torch.inference_mode():
        geometry = model(code)
        # At scale 1 the camera only turns y and z round.
        flip = torch.tensor([1.0, -1.0, -1.0])
        vertices, landmarks = geometry.vertices[0] * flip, geometry.landmarks[0] * flip
        joints = model.J_regressor @ vertices
    return vertices.double().numpy(), landmarks.double().numpy(), joints.double().numpy()


def _streams(config: SyntheticConfig, person: int, video: int) -> tuple[Generator, Generator]:
    """Random streams of the person and of this video: functions of three numbers and of nothing else."""
    of_person = default_rng(SeedSequence([config.seed, person]))
    of_video = default_rng(SeedSequence([config.seed, person, video + 1]))
    return of_person, of_video


def build_scene(config: SyntheticConfig, person_index: int, video_index: int, held_out: bool) -> Scene:
    """One video of one person, entirely decided by the settings and the two numbers."""
    person_rng, video_rng = _streams(config, person_index, video_index)
    who_rng, hair_rng, skin_rng = person_rng.spawn(3)
    clip_rng, motion_rng, cloth_rng, light_rng, room_rng = video_rng.spawn(5)
    person = sample_person(who_rng, config.face_share, held_out)
    head = builtin.build()
    regions = {name: mask.astype(np.float64) for name, mask in head.regions.items()}
    vertices, landmarks, joints = _at_rest(person)
    faces = head.assets.faces.numpy()

    scalp = regions["scalp"]
    skull = Skull.of(vertices, landmarks, scalp)
    cover = coverage(person.hair, vertices, scalp, skull) * (person.hair.top > 0)
    colours, gloss = paint_head(
        person.complexion, person.hair.colour, cover, vertices, landmarks, regions, skin_rng
    )
    hair = grow_hair(person.hair, vertices, faces, scalp, skull, hair_rng)
    neck, neck_size = _neck(vertices, regions["neck"], joints[_ROOT])
    bust = build_bust(sample_outfit(cloth_rng), person.complexion.skin, neck, neck_size, cloth_rng)
    two = bool(clip_rng.random() < config.two_clip_share)
    spans = clip_spans(clip_rng, config.frames_per_video, two)
    return Scene(
        track=perform(motion_rng, person, FaceFrame.of(landmarks), spans, config, head_model()),
        spans=spans,
        faces=_drawn(faces, cover, vertices[:, 1] - joints[_ROOT, 1]),
        colours=colours,
        gloss=gloss,
        attached=join([bust] if hair is None else [bust, hair]),
        pivot=joints[_ROOT],
        light=sample_light(light_rng),
        backdrop=paint_backdrop(room_rng, config.frame_size),
    )


def _neck(vertices: Points, mask: Field, pivot: Points) -> tuple[Points, tuple[float, float]]:
    """Centre (3,), half width and half depth of the neck at the height of the pivot."""
    ring = vertices[(mask > 0.5) & (np.abs(vertices[:, 1] - pivot[1]) < _NECK_BAND)]
    low, high = ring.min(axis=0), ring.max(axis=0)
    centre = np.array([(low[0] + high[0]) / 2, pivot[1], (low[2] + high[2]) / 2])
    return centre, (float(high[0] - low[0]) / 2, float(high[2] - low[2]) / 2)


def _drawn(faces: Faces, cover: Field, above_pivot: Field) -> Faces:
    """The head's faces without those under the hair, and without the neck's lower end.

    That end would stick out of the clothes when the head tilts.
    """
    hidden = (cover > _HIDDEN)[faces].all(axis=1)
    below = (above_pivot < -_NECK_BAND)[faces].all(axis=1)
    return faces[~(hidden | below)]
