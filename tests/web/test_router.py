"""The router: templates, precedence, encoding, methods, and agreement with a naive matcher."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy.web import Problem
from gizmopy.web.router import MethodNotAllowed, RouteConflict, RouteNotFound, Router


def router(*templates: str) -> Router[str]:
    """Return a router that serves GET at each template; the target is the template."""
    made: Router[str] = Router()
    for template in templates:
        made.add("GET", template, template)
    return made


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/", "/", {}),
        ("/cats", "/cats", {}),
        ("/cats/{id}", "/cats/17", {"id": "17"}),
        ("/cats/{id}/toys/{toy}", "/cats/1/toys/2", {"id": "1", "toy": "2"}),
        ("/cats/{id}", "/cats/a%2Fb", {"id": "a/b"}),
        ("/cats/{id}", "/cats/%C3%A4%20b+c", {"id": "ä b+c"}),
        ("/cats/{id}", "/cats/ä", {"id": "ä"}),
        (r"/cats/{id:\d{2}}", "/cats/17", {"id": "17"}),
        ("/v{major}.{minor}", "/v1.2.3", {"major": "1.2", "minor": "3"}),
        ("/{kind:(cat|dog)s}/{id}", "/dogs/3", {"kind": "dogs", "id": "3"}),
        ("/{a:(x)(y)}-{b}", "/xy-z", {"a": "xy", "b": "z"}),
        ("/{a}.{b}", "/x%0Ay.z", {"a": "x\ny", "b": "z"}),
        ("/files/{path:.*}", "/files/a/b%2Fc/", {"path": "a/b/c/"}),
        ("/files/{path:.*}", "/files/", {"path": ""}),
        ("/{path:.*}", "/", {"path": ""}),
        ("/käse", "/k%C3%A4se", {}),
        ("/käse", "/k%c3%a4se", {}),
        ("/k%C3%A4se", "/k%C3%A4se", {}),
        ("/a b", "/a%20b", {}),
        ("/cats", "/c%61ts", {}),
        ("/100%25", "/100%25", {}),
        ("/a//b", "/a//b", {}),
        ("/cats/", "/cats/", {}),
    ],
)
def test_a_template_matches(template: str, path: str, values: dict[str, str]) -> None:
    """The values of variables are decoded."""
    assert router(template).match("GET", path) == (template, values)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/cats", "/cats/"),
        ("/cats/", "/cats"),
        ("/cats", "/Cats"),
        ("/cats", "//cats"),
        ("/cats", "cats"),
        ("/cats", ""),
        ("/cats", "*"),
        ("/cats/{id}", "/cats/"),
        ("/cats/{id}", "/cats/1/2"),
        (r"/cats/{id:\d+}", "/cats/1a"),
        ("/v{major}.{minor}", "/v1."),
        ("/a.b", "/axb"),
        ("/v.{a}", "/vx1"),
        ("/files/{path:.*}", "/files"),
        ("/a/b", "/a%2Fb"),
        ("/a%2541", "/a%41"),
        ("/{name}", "/%FF"),
    ],
)
def test_a_template_does_not_match(template: str, path: str) -> None:
    """Case, slashes, empty segments and encoded slashes matter; invalid UTF-8 never matches."""
    with pytest.raises(RouteNotFound):
        router(template).match("GET", path)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/cats/new", "/cats/new"),
        ("/cats/17", r"/cats/{id:\d+}"),
        ("/cats/1x", r"/cats/{id:\d\w}"),
        ("/cats/tom", "/cats/{name}"),
        ("/cats/tom/toys", "/cats/{path:.*}"),
        ("/cats/new/toys", "/{kind}/new/toys"),
    ],
)
def test_the_most_specific_segment_wins(path: str, template: str) -> None:
    """From the left: static text, patterns in order of declaration, a variable, the rest.

    The last case needs a step back: no template begins with ``/cats/new/``.
    """
    served = router(
        "/{kind}/new/toys",
        "/cats/{path:.*}",
        "/cats/{name}",
        r"/cats/{id:\d+}",
        r"/cats/{id:\d\w}",
        "/cats/new",
    )
    if path == "/cats/new/toys":
        served = router("/cats/new", "/cats/{name}", "/{kind}/new/toys")

    assert served.match("GET", path)[0] == template


def test_a_template_without_the_method_is_skipped() -> None:
    """The best template that serves the method matches, even if a better one does not serve it."""
    made = router("/cats/new")
    made.add("PUT", "/cats/{id}", "put")

    assert made.match("PUT", "/cats/new") == ("put", {"id": "new"})


def test_a_wrong_method_lists_the_allowed_ones() -> None:
    """Allow has the methods of every template that matches, and HEAD with GET."""
    made = router("/cats/new")
    made.add("PUT", "/cats/{id}", "put")

    with pytest.raises(MethodNotAllowed) as refused:
        made.match("PATCH", "/cats/new")
    assert refused.value.allow == ("GET", "HEAD", "PUT")

    with pytest.raises(MethodNotAllowed) as refused:
        made.match("HEAD", "/cats/1")
    assert refused.value.allow == ("PUT",)


def test_get_serves_head_unless_head_is_declared() -> None:
    """HEAD uses GET's target, for static and for variable paths."""
    made = router("/cats", "/cats/{id}")
    assert made.match("HEAD", "/cats") == ("/cats", {})
    assert made.match("HEAD", "/cats/1") == ("/cats/{id}", {"id": "1"})

    made.add("HEAD", "/cats", "head")
    assert made.match("HEAD", "/cats") == ("head", {})
    assert made.match("GET", "/cats") == ("/cats", {})


def test_a_target_may_be_falsy() -> None:
    """A target may be any value."""
    made: Router[int] = Router()
    made.add("GET", "/zero/{x}", 0)
    assert made.match("HEAD", "/zero/1") == (0, {"x": "1"})


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("cats", "begin with '/'"),
        ("", "begin with '/'"),
        ("/cats/{id", "close every '{'"),
        ("/cats/id}", "close every '{'"),
        ("/cats/{{id}}", "write {name}"),
        ("/cats/{}", "write {name}"),
        ("/cats/{1}", "write {name}"),
        ("/cats/{id:}", "write {name}"),
        ("/cats/{a-b}", "write {name}"),
        ("/cats/{id:(}", "invalid regex for 'id'"),
        ("/{id}/{id}", "two variables named 'id'"),
        ("/{id}-{id}", "two variables named 'id'"),
        ("/{path:.*}/more", "move it to the end"),
        ("/cats?name={name}", "write the path only"),
        ("/cats#top", "write the path only"),
    ],
)
def test_malformed_templates_are_refused(template: str, why: str) -> None:
    """The error says how to correct the template."""
    with pytest.raises(ValueError, match=re.escape(why)):
        router(template)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/cats/{id}", "/cats/{name}"),
        (r"/cats/{id:\d+}", r"/cats/{number:\d+}"),
        ("/v{a}.{b}", "/v{b}.{a}"),
        ("/{a:.*}", "/{b:.*}"),
        ("/käse", "/k%C3%A4se"),
    ],
)
def test_templates_that_differ_only_in_names_conflict(first: str, second: str) -> None:
    """Two templates for the same paths are refused, for any methods."""
    made = router(first)
    with pytest.raises(RouteConflict, match="use the same template") as conflict:
        made.add("PUT", second, second)
    assert conflict.value.target == first


def test_variables_of_different_paths_may_have_different_names() -> None:
    """Templates share the nodes of the trie, but not the names of variables."""
    made = router("/cats/{id}", "/cats/{cat_id}/toys", r"/{x:\d+}/a", r"/{y:\d+}/b")
    assert made.match("GET", "/cats/1/toys")[1] == {"cat_id": "1"}
    assert made.match("GET", "/7/b")[1] == {"y": "7"}


def test_the_same_method_and_template_conflict() -> None:
    """A path has one target for a method."""
    with pytest.raises(RouteConflict, match="declared for GET already"):
        router("/cats", "/cats")


SEGMENTS = ("", "a", "ä", "v1", "{x}", "{x:[0-9]+}", "v{x}", "{x:[av].*}")
RAW = ("", "a", "%C3%A4", "%c3%a4", "v1", "v", "12", "a%2Fb", "v%2f")


def shape(template: str) -> str:
    """Return the template without the names of its variables."""
    return re.sub(r"\{x\d*", "{x", template)


def naive(templates: list[tuple[str, str]], method: str, path: str) -> str | set[str] | None:
    """Return the template that serves the path, or the allowed methods, or None: try each one."""
    matches = []
    for served, template in templates:
        rank: list[tuple[int, int]] = []
        wanted, given = template[1:].split("/"), [unquote(each) for each in path[1:].split("/")]
        for depth, segment in enumerate(wanted):
            prefix = [shape(each) for each in wanted[: depth + 1]]
            order = next(
                index
                for index, (_, other) in enumerate(templates)
                if [shape(each) for each in other[1:].split("/")][: depth + 1] == prefix
            )
            text = given[depth] if depth < len(given) else None
            if text is None:
                break
            if re.fullmatch(r"\{x\d+:\.\*\}", segment):
                rank.append((3, 0))
                given = wanted
            elif re.fullmatch(r"\{x\d+\}", segment):
                if not text:
                    break
                rank.append((2, 0))
            elif "{" in segment:
                pattern = re.sub(r"\{x\d+(?::(.*))?\}", lambda m: f"(?:{m[1] or '.+'})", segment)
                if not re.fullmatch(pattern, text, re.DOTALL):
                    break
                rank.append((1, order))
            elif segment == text:
                rank.append((0, 0))
            else:
                break
        else:
            if len(wanted) == len(given):
                matches.append((rank, served, template))
    serving = [(rank, template) for rank, served, template in matches if served == method]
    if serving:
        return min(serving)[1]
    return {served for _, served, _ in matches} or None


def numbered(parts: list[str]) -> str:
    """Return a template of the segments, whose variables have their depth in the name."""
    return "/" + "/".join(part.replace("{x", f"{{x{depth}", 1) for depth, part in enumerate(parts))


templates = st.lists(
    st.tuples(
        st.sampled_from(("PUT", "POST")),
        st.builds(
            lambda parts, rest: numbered([*parts, *rest]),
            st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3),
            st.sampled_from(((), ("{x:.*}",))),
        ),
    ),
    max_size=8,
    unique=True,
)
paths = st.lists(st.sampled_from(RAW), min_size=1, max_size=4).map(lambda raw: "/" + "/".join(raw))


@given(templates, paths, st.sampled_from(("PUT", "POST")))
def test_the_trie_agrees_with_a_naive_matcher(
    declared: list[tuple[str, str]], path: str, method: str
) -> None:
    """For any templates and path, the router and the naive matcher give the same result."""
    made: Router[str] = Router()
    for served, template in declared:
        made.add(served, template, template, unsafe=True)
    expected = naive(declared, method, path)
    try:
        found: str | set[str] | None = made.match(method, path)[0]
    except MethodNotAllowed as refused:
        found = set(refused.allow)
    except RouteNotFound:
        found = None

    assert found == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_can_be_a_value(text: str) -> None:
    """A percent-encoded value is decoded to the original text."""
    made: Router[None] = Router()
    made.add("GET", "/x/{value}", None, unsafe=True)
    assert made.match("GET", f"/x/{quote(text, safe='')}")[1] == {"value": text}


UNSAFE = (
    "..",
    ".",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "..%2Fetc",
    "..%5cetc",
    "..\\etc",
    "a\\..",
    "a\\..\\b",
    "a%2F..",
    "a%2f%2e%2e%2fb",
    "a%2F.%2Fb",
    "%2Fetc%2Fpasswd",
    "%5Cetc",
    "\\etc",
    "a%00",
    "%00",
    "a\0.txt",
)


@pytest.mark.parametrize("value", UNSAFE)
@pytest.mark.parametrize("template", ["/f/{v}", "/f/{v:.*}", "/f/{v:.+}", "/f/{w}-{v}"])
def test_a_path_traversal_is_a_bad_request(template: str, value: str) -> None:
    """Dot segments, absolute paths and NUL are refused, encoded or not, in any kind of variable."""
    path = f"/f/x-{value}" if "-" in template else f"/f/{value}"
    with pytest.raises(Problem) as refused:
        router(template).match("GET", path)
    assert refused.value.status == 400
    assert "invalid value for 'v'" in (refused.value.detail or "")


@pytest.mark.parametrize("path", ["/f//etc", "/f/..", "/f/a/../b", "/f/a/./b", "/f/a/.."])
def test_dot_segments_in_the_rest_of_a_path_are_refused(path: str) -> None:
    """The rest of a path may contain dot segments, and may begin with a slash."""
    with pytest.raises(Problem, match="400"):
        router("/f/{path:.*}").match("HEAD", path)


@pytest.mark.parametrize(
    "value",
    ["...", ".a", "a.", "a..b", "..a", "%252e%252e", "a%2Fb", "a%5Cb", ".%20.", "a//b/", ""],
)
def test_a_value_that_resembles_a_path_traversal_is_accepted(value: str) -> None:
    """Dots in a name are not dot segments, and text that was encoded twice is decoded once."""
    assert router("/f/{path:.*}").match("GET", f"/f/{value}")[1] == {"path": unquote(value)}


@pytest.mark.parametrize("value", UNSAFE)
def test_a_route_may_accept_any_value(value: str) -> None:
    """Of one template, one method may accept any value and another not."""
    made = router("/f/{v}")
    made.add("PUT", "/f/{v}", "put", unsafe=True)
    assert made.match("PUT", f"/f/{value}") == ("put", {"v": unquote(value)})
    with pytest.raises(Problem):
        made.match("GET", f"/f/{value}")
