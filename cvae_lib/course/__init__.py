"""What only the course's notebooks need: figures, panels, checks, records, the run profile and a report.

Importing it is what puts the course's surroundings in force: ``COURSE_PROFILE=fast`` lowers the library's limits for
smoke tests, ``COURSE_UNATTENDED=1`` switches live bars off, and training stays on the CPU, for which the chapters are
sized, unless ``COURSE_DEVICE`` names something else. The library itself never imports this package.
"""

from cvae_lib.course.profile import FAST, Profile, capped, enter, profile
from cvae_lib.course.report import Finding, Report, report

__all__ = ["FAST", "Finding", "Profile", "Report", "capped", "enter", "profile", "report"]

enter()
