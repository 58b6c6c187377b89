# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# pyright: reportAttributeAccessIssue=false
# (MuJoCo is a compiled module without type stubs.)
"""Off-screen rendering of the simulated cameras, with or without a GPU or a display.

The OpenGL context is made here and by hand: MuJoCo's own renderer chooses it from an environment variable that must
be set before MuJoCo is first imported. EGL is used where it is installed (a GPU's or Mesa's software driver), else
OSMesa; MUJOCO_GL=egl or osmesa forces one. A context belongs to the thread that made it.
"""

from __future__ import annotations

import ctypes.util
import os
from typing import Any

import mujoco
import numpy as np

from gr00t_bringup.sim.scene import IMAGE_HEIGHT, IMAGE_WIDTH
from gr00t_training.errors import ConfigError

# Debian and Ubuntu package names; libgl1 brings Mesa's software driver along
EGL_PACKAGES = "libegl1 libgl1"
_REMEDY = f"install the system packages {EGL_PACKAGES} (Debian, Ubuntu), or libosmesa6"
_MAX_GEOMS = 200  # the scene has about 40


class CameraRenderer:
    """Renders the cameras of a model. Use it on one thread only."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Open an OpenGL context on the calling thread.

        Raises:
            ConfigError: no OpenGL library can render off screen; names the system packages to install.
        """
        self._model = model
        self._context = _open_context()
        self._mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, IMAGE_WIDTH, IMAGE_HEIGHT)
        self._pixels = np.empty((IMAGE_HEIGHT, IMAGE_WIDTH, 3), np.uint8)

    def render(self, state: mujoco.MjData, camera: str) -> np.ndarray:
        """Return what `camera` sees, `(240, 320, 3)` uint8 RGB, a new array.

        Raises:
            ValueError: the model has no such camera.
        """
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if view.fixedcamid < 0:
            raise ValueError(f"the scene has no camera '{camera}'")
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, state, self._option, None, view, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._mjr)
        mujoco.mjr_readPixels(self._pixels, None, self._rect, self._mjr)
        return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the context; on the thread that made it."""
        self._mjr.free()
        self._context.free()


def _open_context() -> Any:
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted not in ("", "egl", "osmesa"):
        raise ConfigError(f"MUJOCO_GL is '{wanted}', expected egl or osmesa; unset it to choose by what is installed")
    if wanted != "osmesa" and ctypes.util.find_library("EGL") and _has_opengl():
        return _open_egl()
    if wanted != "egl" and ctypes.util.find_library("OSMesa"):
        from mujoco.osmesa import GLContext

        context = GLContext(IMAGE_WIDTH, IMAGE_HEIGHT)
        context.make_current()
        return context
    raise ConfigError(f"cameras: no OpenGL library to render off screen ({wanted or 'egl or osmesa'}); {_REMEDY}")


def _open_egl() -> Any:
    try:
        # the import opens the library and asks it for its devices
        from mujoco.egl import GLContext

        context = GLContext(IMAGE_WIDTH, IMAGE_HEIGHT)
        context.make_current()
    except (ImportError, RuntimeError, AttributeError, TypeError) as error:
        raise ConfigError(f"cameras: EGL is installed but finds no driver ({error}); {_REMEDY}") from error
    return context


def _has_opengl() -> bool:
    return bool(ctypes.util.find_library("OpenGL") or ctypes.util.find_library("GL"))
