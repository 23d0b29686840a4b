"""/auth: accounts and tokens."""

from msgspec import UNSET

from gateway import limits
from gateway.answers import SessionAnswer, TokensAnswer, UserAnswer
from gateway.forms import AccountChange, Login, RefreshToken, Register
from gateway.operation import Call, Reply


async def register(call: Call) -> Reply:
    """Open an account and log in."""
    form: Register = call.body
    await limits.check_register(call.services.stores, call.address)
    session = await call.services.accounts.register(form.email, form.password, form.full_name)
    return Reply(SessionAnswer.of(session))


async def login(call: Call) -> Reply:
    """Log in with e-mail and password."""
    form: Login = call.body
    await limits.check_login(call.services.stores, call.address, form.email)
    return Reply(SessionAnswer.of(await call.services.accounts.login(form.email, form.password)))


async def refresh(call: Call) -> Reply:
    """Exchange a refresh token for a new pair."""
    form: RefreshToken = call.body
    return Reply(TokensAnswer.of(await call.services.accounts.refresh(form.refresh_token)))


async def logout(call: Call) -> Reply:
    """End the login that a refresh token belongs to."""
    form: RefreshToken = call.body
    await call.services.accounts.logout(call.user.sub, form.refresh_token)
    return Reply()


async def logout_all(call: Call) -> Reply:
    """End every login of the user."""
    await call.services.accounts.logout_all(call.user.sub)
    return Reply()


async def get_me(call: Call) -> Reply:
    """The account of the token's user."""
    return Reply(UserAnswer.of(await call.services.accounts.me(call.user.sub)))


async def put_me(call: Call) -> Reply:
    """Change the account of the token's user."""
    form: AccountChange = call.body
    full_name = None if form.full_name is UNSET else form.full_name
    return Reply(UserAnswer.of(await call.services.accounts.update(call.user.sub, full_name=full_name)))
