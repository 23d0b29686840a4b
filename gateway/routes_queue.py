"""The routes of the waiting room."""

from gateway import answers, forms, handle_queue, queue
from gateway.operation import Operation

API = "/api/v1"

QUEUE = (
    Operation(
        method="GET",
        path=queue.STATUS_PATH,
        handler=None,
        summary="How one stands in a queue, and when to ask again",
        tag="queue",
        query=forms.TicketQuery,
        answer=answers.QueueStateAnswer,
        auth="ticket",
        headers=("X-Queue-Ticket",),
        refusals=("NOT_FOUND",),
    ),
    Operation(
        method="POST",
        path=queue.JOIN_PATH,
        handler=None,
        summary="Get a place in an event's queue, once",
        tag="queue",
        body=forms.Join,
        answer=answers.QueueStateAnswer,
        auth="user",
        status=201,
        headers=("Idempotency-Key", "X-Idempotency-Key", "X-Queue-Ticket"),
        refusals=("NOT_FOUND", "SALE_NOT_OPEN"),
    ),
    Operation(
        method="GET",
        path=f"{API}/queue/stream",
        handler=handle_queue.stream,
        summary="How one stands in a queue, as server-sent events",
        tag="queue",
        query=forms.TicketQuery,
        auth="ticket",
        is_stream=True,
        headers=("X-Queue-Ticket", "Last-Event-ID"),
        refusals=("NOT_FOUND",),
    ),
    Operation(
        method="POST",
        path=f"{API}/queue/pass",
        handler=handle_queue.claim_pass,
        summary="The pass of who is served; again: the same one",
        tag="queue",
        query=forms.TicketQuery,
        answer=answers.PassAnswer,
        auth="user and ticket",
        status=201,
        headers=("X-Queue-Ticket",),
        refusals=("NOT_FOUND", "INVALID_STATE", "SALE_NOT_OPEN"),
    ),
    Operation(
        method="DELETE",
        path=f"{API}/queue/place",
        handler=handle_queue.leave,
        summary="Give the place up",
        tag="queue",
        query=forms.TicketQuery,
        auth="user and ticket",
        status=204,
        headers=("X-Queue-Ticket",),
        refusals=("NOT_FOUND",),
    ),
    *(
        Operation(
            method="POST",
            path=f"{API}/events/{{id}}/queue/{action}",
            handler=handler,
            summary=summary,
            tag="queue",
            answer=answers.EventAnswer,
            auth="organizer",
            refusals=("NOT_FOUND", "INVALID_STATE"),
        )
        for action, handler, summary in (
            ("pause", handle_queue.pause, "Let nobody in for now"),
            ("resume", handle_queue.resume, "Let people in again"),
        )
    ),
)
