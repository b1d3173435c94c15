"""What `writ` alone says."""

from __future__ import annotations

FRONT = """\
{b}Writ{n} runs jobs on NATS JetStream and keeps the evidence: who, what, when, why.

{b}Start here{n}
  writ demo                     a short real run: a success, a retry, a killed worker, a dead letter
  writ up                       start a node here (data in ./.writ); stop it with `writ down`

{b}Run jobs{n}
  writ worker MODULE            run the tasks of a Python module
  writ dev MODULE               the same, started again whenever the code changes
  writ submit QUEUE TASK INPUT  submit a job; --wait for its result, --file for many
  writ cancel ID                end a job; --all --queue Q for many
  writ terminate ID             end a job without waiting for its worker
  writ pause ID                 hold a job that waits; `writ resume ID` lets it go on
  writ approve ID               say yes to a job that asks; `writ reject ID` says no
  writ signal ID NAME           send data to a job
  writ edit ID                  change a job that has not started
  writ rerun ID                 run a finished job again

{b}Processes{n}
  writ init NAME --type job     a project that runs and has tests: an agent, an rpa robot or a job
  writ run --entry main         run it here, with everything that happens told
  writ lock                     pin its dependencies
  writ publish                  make it a release: a signed package; --patch raises the version
  writ release list             releases and their aliases; show, fetch, promote, rollback, canary,
                                freeze, unfreeze, revoke or approve one
  writ evaluate run PLAN        try a release on data, hold it against another; show what was proved
  writ gate list                what a promotion takes; apply a file of them, or remove one

{b}Govern{n}
  writ apply FILE               declare queues and schedules from a TOML file; --dry-run shows them
  writ queue list               the queues; show, pause, resume or drain one
  writ schedule list            the schedules; show, pause, resume, trigger, backfill or delete one
  writ dlq                      dead letters by cause; `writ dlq redrive ID --reason R` tries one
                                again, and `--cause C --reason R` all of a cause, by plan
  writ drop ID --reason R       settle a dead letter for good
  writ asset list               named values and secrets for jobs; set, rotate or remove one
  writ file put FILE            keep a file for jobs to take as input; get, list or remove it
  writ memory list              what a run or an agent remembers; get or forget it
  writ price list               what the tokens of models cost; `writ price set` says it
  writ erase ID --reason R      make the content of a job unreadable for good; --subject for many
  writ hold list                what must not be erased; add or remove one
  writ tenant list              who shares the node; create or show one, set its quotas and budget
  writ partitions               how many logs there are; have more, move a shard that holds nothing
  writ operation list           what was planned for many jobs, and how far it is; show one
  writ batch list               groups of jobs, and how far they are; show one, or seal it

{b}Who may do what{n}
  writ principal list           who there is; create, show, revoke or restore one
  writ grant NAME ROLE          give a role; --in a queue or folder; `writ ungrant` takes it away
  writ elevate ROLE             ask for a role for a time; another person says `writ approve-access`
                                or `writ decline-access`
  writ token create NAME        an API token, for HTTP; list or revoke them
  writ session list             browsers that have logged in; end a session
  writ can VERB QUEUE           may I, and which line of the policy says so; `writ policy show`
  writ login                    be somebody else from here on; `writ context use`, `writ whoami`

{b}Look{n}
  writ jobs                     list jobs; --state, --queue, --tag, --error, --since, ..., --watch
  writ job ID                   one job with its parents, its children and its whole timeline
  writ attempts                 attempts with their leases; `writ workers` tells who works
  writ audit                    who did what, and what was refused
  writ cost                     what models cost; `writ tools` tells what was called
  writ explain ID               why it is where it is, answered from the log
  writ reproduce ID             run it again with the recorded answers, and compare the two runs
  writ replay ID                its state after each record; --at a time, --diff two, --as html;
                                without ID all of a queue or tenant; --verify, --what-if, --export

{b}The node{n}
  writ status                   is it up, who leads, how far behind is each view
  writ orchestrator             run one more over the log, which leads when nobody does
  writ broker trust FILE        what a broker that others run needs, for `writ up --broker-url`
  writ views rebuild NAME       build a view anew from the log, beside the one that answers
  writ archive status           what was moved out of the broker; run moves what is due
  writ backup DIR               all that it holds, while it runs; `writ restore DIR` makes it anew
  writ upgrade                  write records of the newest version, once all nodes read it
  writ env                      where it is, for other programs: eval "$(writ env)"
  writ down                     stop it

{b}A first example{n}
  writ up --detach
  printf 'from writ import task\\n@task\\ndef hello(name: str): return f"hello {{name}}"\\n' > hi.py
  writ worker hi --queue greetings &
  writ submit greetings hello '{{"name": "world"}}' --wait

`writ COMMAND --help` tells more. Everything that prints data takes --json.
"""


def front(coloured: bool) -> str:
    """The page, with bold headings on a terminal."""
    return FRONT.format(b="\033[1m" if coloured else "", n="\033[0m" if coloured else "")
