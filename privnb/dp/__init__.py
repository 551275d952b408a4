"""Differentially private SQL. Pure: no files, no network, no clock.

The way of a query: `planner.plan` reads SQL and schema and gives a `plan.Plan`; the site reserves
its price, runs its ``sql`` on the table that `bounding.bounding_sql` made, and hands the small
aggregates to its ``release``, which adds OpenDP's noise and computes the answer from there.

What the proof of privacy rests on is in four places: `bounding` (what one unit can be),
`sensitivity` and `vectors` (how much that can move), `noise` (what that costs), `accounting` (what
it adds up to).

Several sites together: `sharing` and `groups` add up their answers to one question, `training` fits
a regression to all their rows. There each site adds a piece of the noise only, and the proof rests
on two places more: `pieces` (what a sum of pieces costs) and `contributions` (what one unit adds to
a round of training).
"""
