"""Events, shows and zones: for everybody to read, for organizers to make and change."""

from gateway.answers import CategoryAnswer, EventAnswer, SalesAnswer, ShowAnswer, ZoneAnswer
from gateway.forms import EventsQuery
from gateway.operation import Call, Reply


async def list_events(call: Call) -> Reply:
    """Published events, newest first."""
    query: EventsQuery = call.query
    events, total = await call.services.catalogue.read.list_public(
        text=query.q,
        category=query.category,
        date_from=query.date_from,
        date_to=query.date_to,
        page=query.page,
        per_page=query.per_page,
    )
    return call.list_reply([EventAnswer.of(event) for event in events], total)


async def get_event(call: Call) -> Reply:
    """An event that was published, by its id or slug."""
    return Reply(EventAnswer.of(await call.services.catalogue.read.find_public(call.id_or_slug)))


async def list_shows(call: Call) -> Reply:
    """The shows of an event, newest first."""
    query = call.query
    shows, total, currency = await call.services.catalogue.read.list_shows(
        call.id_or_slug, query.page, query.per_page
    )
    return call.list_reply([ShowAnswer.of(show, currency) for show in shows], total)


async def list_zones(call: Call) -> Reply:
    """The zones of a show, newest first."""
    query = call.query
    zones, total, currency = await call.services.catalogue.read.list_zones(
        call.id, query.page, query.per_page
    )
    return call.list_reply([ZoneAnswer.of(zone, currency) for zone in zones], total)


async def list_categories(call: Call) -> Reply:
    """The categories, newest first."""
    query = call.query
    categories, total = await call.services.catalogue.read.list_categories(query.page, query.per_page)
    return call.list_reply([CategoryAnswer.of(category) for category in categories], total)


async def list_own_events(call: Call) -> Reply:
    """All events that the organizer may edit, drafts too, newest first."""
    query = call.query
    events, total = await call.services.catalogue.read.list_of(call.user, query.page, query.per_page)
    return call.list_reply([EventAnswer.of(event) for event in events], total)


async def create_event(call: Call) -> Reply:
    """A new draft."""
    return Reply(EventAnswer.of(await call.services.catalogue.create_event(call.user, call.body)))


async def update_event(call: Call) -> Reply:
    """Change an event."""
    event = await call.services.catalogue.update_event(call.user, call.id, call.body)
    return Reply(EventAnswer.of(event))


async def delete_event(call: Call) -> Reply:
    """Delete a draft."""
    await call.services.catalogue.delete_event(call.user, call.id)
    return Reply()


async def add_show(call: Call) -> Reply:
    """A new show of an event."""
    return Reply(ShowAnswer.of(*await call.services.catalogue.add_show(call.user, call.id, call.body)))


async def update_show(call: Call) -> Reply:
    """Change a show."""
    return Reply(ShowAnswer.of(*await call.services.catalogue.update_show(call.user, call.id, call.body)))


async def add_zone(call: Call) -> Reply:
    """A new zone of a show."""
    return Reply(ZoneAnswer.of(*await call.services.catalogue.add_zone(call.user, call.id, call.body)))


async def update_zone(call: Call) -> Reply:
    """Change a zone."""
    return Reply(ZoneAnswer.of(*await call.services.catalogue.update_zone(call.user, call.id, call.body)))


async def publish(call: Call) -> Reply:
    """Put an event on sale."""
    return Reply(EventAnswer.of(await call.services.catalogue.publish(call.user, call.id)))


async def pause(call: Call) -> Reply:
    """Stop taking reservations."""
    return Reply(EventAnswer.of(await call.services.catalogue.pause(call.user, call.id)))


async def resume(call: Call) -> Reply:
    """Take reservations again."""
    return Reply(EventAnswer.of(await call.services.catalogue.resume(call.user, call.id)))


async def sales(call: Call) -> Reply:
    """How an event sells, live."""
    zones = await call.services.catalogue.read.sales(call.user, call.id)
    return Reply(SalesAnswer.of(call.id, zones))
