"""The pure heart: decisions only. No asyncio, time, os, random, socket or logging in here."""
