"""Run every benchmark of cost: python -m benchmarks (`make bench`)."""

import asyncio

from benchmarks import http, kafka, messages, publish, scale, scrape, start

http.main()
scale.main()
start.main()
asyncio.run(scrape.main())
asyncio.run(messages.main())
asyncio.run(publish.main())
kafka.main()
