import os,time,sys
os.setsid()
for fd in range(0,64):
    try: os.close(fd)
    except OSError: pass
os.environ.clear()
end=time.time()+25
while time.time()<end:
    if os.fork(): os._exit(0)
    time.sleep(0.0005)
    try: os.setsid()
    except OSError: pass
