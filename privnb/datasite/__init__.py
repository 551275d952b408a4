"""The PySyft adapter: the only room that imports ``syft``.

Others import `privnb.datasite.ports`, which is light, and open `privnb.datasite.owner` or
`privnb.datasite.analyst` where they are used. The way of a job through the room::

    analyst.submit ─ box (PySyft makes the job, encrypts it) ─ connection ─ exchange
                                                                                │
    owner.poll ─ ArrivedJob ◀─ box (PySyft's rules, its tree) ◀─ envelope (verify, bound, confine)

and a reply goes back the same way. What follows a job round by round goes through `rounds`, without
PySyft's jobs but in its envelopes. `keys` pins peers, `home` holds what stays on this machine,
`names` says what may be part of a path, `cards` reads what sites show of themselves.
"""
