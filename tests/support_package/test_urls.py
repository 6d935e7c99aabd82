from automigrator.support import secrets, urls


def test_a_password_is_never_rendered() -> None:
    url = urls.parse("postgresql://u:canary@h/db?sslpassword=canary")
    assert "canary" not in urls.rendered(url)
    assert "canary" not in secrets.scrubbed("failed for u:canary", *urls.secrets_of(url))


def test_a_sync_url_is_taken_to_its_async_driver() -> None:
    url = urls.with_async_driver(urls.parse("sqlite:///a.db"))
    assert url.drivername == "sqlite+aiosqlite"
