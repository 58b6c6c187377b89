# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Judge a policy on recorded episodes before it moves a robot: errors beside baselines, and tests that errors hide.

`queries` asks the policy along the episodes, `metrics` and `probes` measure, `verdicts` says what the numbers mean,
`judging` runs it all, `page` shows it.
"""
