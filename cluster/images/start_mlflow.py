"""Start an MLflow server on PostgreSQL, with artifacts in an S3 store and with authentication.

All that it needs comes from the environment, and it starts with nothing less:

    POSTGRES_HOST, POSTGRES_PORT (5432), POSTGRES_USER, POSTGRES_PASSWORD
    POSTGRES_DB, POSTGRES_AUTH_DB        databases of the record, and of users; both must exist
    S3_BUCKET                            made if need be
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_S3_ENDPOINT_URL (without: Amazon's)
    MLFLOW_ADMIN_USER, MLFLOW_ADMIN_PASSWORD
    MLFLOW_FLASK_SERVER_SECRET_KEY       any long random text
    HOST (127.0.0.1), PORT (5000), ALLOWED_HOSTS (host names that clients may use)

Artifacts go through the server: nobody else needs the keys of the store.
"""

import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import boto3
from botocore.exceptions import ClientError

NEEDED = (
    "POSTGRES_HOST",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_DB",
    "POSTGRES_AUTH_DB",
    "S3_BUCKET",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_ADMIN_USER",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)


def main() -> None:
    """Check the environment, make the bucket, write the settings of users, become the server."""
    env = os.environ
    if missing := [name for name in NEEDED if not env.get(name)]:
        sys.exit(f"start_mlflow: set {', '.join(missing)}")
    make_bucket(env["S3_BUCKET"], env.get("MLFLOW_S3_ENDPOINT_URL"))
    settings = Path(tempfile.mkdtemp()) / "auth.ini"
    settings.touch(mode=0o600)
    # What is in the file is a name's right to what others made: to read it, and no more.
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database(env['POSTGRES_AUTH_DB']).replace('%', '%%')}\n"
        f"admin_username = {env['MLFLOW_ADMIN_USER']}\n"
        f"admin_password = {env['MLFLOW_ADMIN_PASSWORD'].replace('%', '%%')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # Else every request hashes the password anew, up to twice, which is most of a server's work. A
        # password that was changed or a user who was removed may count for so long at another worker.
        "auth_cache_ttl_seconds = 60\n",
        encoding="utf-8",
    )
    env["MLFLOW_AUTH_CONFIG_PATH"] = str(settings)
    # By the environment: a command line is for all to see.
    env["MLFLOW_BACKEND_STORE_URI"] = database(env["POSTGRES_DB"])
    env["MLFLOW_ARTIFACTS_DESTINATION"] = f"s3://{env['S3_BUCKET']}"
    words = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    words += ["--host", env.get("HOST", "127.0.0.1"), "--port", env.get("PORT", "5000")]
    words += ["--workers", env.get("WORKERS", "2")]
    if hosts := env.get("ALLOWED_HOSTS"):
        words += ["--allowed-hosts", hosts]
    os.execv(sys.executable, words)  # noqa: S606 - our own words


def database(name: str) -> str:
    """The address of a database."""
    env = os.environ
    user, password = quote(env["POSTGRES_USER"], safe=""), quote(env["POSTGRES_PASSWORD"], safe="")
    place = f"{env['POSTGRES_HOST']}:{env.get('POSTGRES_PORT', '5432')}"
    return f"postgresql+psycopg2://{user}:{password}@{place}/{name}"


def make_bucket(name: str, endpoint: str | None) -> None:
    """Make it, unless it is there."""
    client = boto3.client("s3", endpoint_url=endpoint)
    try:
        client.head_bucket(Bucket=name)
    except ClientError:
        client.create_bucket(Bucket=name)


if __name__ == "__main__":
    main()
