"""Upload of a folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from trimtab.models.families import refusal
from trimtab.models.tokenizer import first_line


def upload(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to the hub, making the repository where there is none.

    Args:
        folder: what to upload.
        repo_id: such as `someone/calm`.
        commit_message: of the commit.
        private: whether a new repository is; None leaves it to the owner's settings.
        token: None takes the one that this machine is logged in with.
        revision: the branch to commit to; None means main.
        create_pr: ask for a pull request instead.

    Returns:
        Where to see the commit, or the pull request.

    Raises:
        ModelError: the hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        to: dict[str, Any] = {"repo_id": name, "revision": revision, "create_pr": create_pr}
        done = api.upload_folder(folder_path=folder, commit_message=commit_message, **to)
    except (OSError, ValueError) as error:
        got, hint = f"{repo_id}: {first_line(error)}", "hf auth login, or token="
        raise refusal(got, "a repository that you may write to", hint) from error
    return str(done.pr_url if create_pr else done.commit_url)
