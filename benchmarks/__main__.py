"""Run every benchmark: python -m benchmarks (`make bench`)."""

import asyncio

from benchmarks import http, messages

asyncio.run(http.main())
asyncio.run(messages.main())
