"""Packages: what a release is made of, as one file that is the same wherever it is built.

    project folder --build--> .writpkg --open_package--> Package, checked in every byte

`open_package` is all that a worker needs: it refuses what was changed, however little.
"""

from .build import BuildError as BuildError
from .build import build as build
from .manifest import Manifest as Manifest
from .manifest import PackageError as PackageError
from .package import Package as Package
from .package import open_package as open_package
from .project import Project as Project
from .project import ProjectError as ProjectError
from .project import read_project as read_project
